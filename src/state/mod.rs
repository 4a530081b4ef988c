//! The shared vocabulary: what is wanted (`Resource`), what was seen (`Observation`), what differs (`Change`), what is
//! done about it (`Step`), and on what (`Target`). Types only; every room above speaks them.

mod change;
mod cluster;
mod facts;
mod names;
mod resource;
mod secret;
mod target;

pub use change::{Change, FieldDiff, Fields, Hazard, Observation, Observed, Seen, Step, Verb};
pub use cluster::Cluster;
pub use facts::{Facts, Headers, LockRecord, Managed, Mounted, OpenBatch, PackageManager, PciFunction};
pub use names::{HostName, LateName, PoolName, ResourceId, RunId, StepId, TargetId};
pub use resource::*;
pub use secret::{REDACTED, SecretText};
pub use target::{Failure, FailureKind, Lates, Target};
