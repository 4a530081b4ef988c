//! The shared vocabulary: desired state (`Resource`), observed state (`Observation`), the difference (`Change`), the action
//! (`Step`), and what it acts on (`Target`). Types only; every module above uses them.

mod change;
mod cluster;
mod facts;
mod hazard;
mod id;
mod names;
mod plain;
mod regular;
mod resource;
mod secret;
mod stream;
mod target;

pub use change::{Change, FieldDiff, Fields, Observation, Observed, Origin, Orphan, Seen, Step, Verb, Work};
pub use cluster::{BarePods, Cluster, Nodes, OutOfService};
pub use facts::{
    Certificate, Facts, Headers, LockRecord, Managed, Mounted, OpenBatch, PackageFilter, PackageManager,
    PciFunction, RestoreLeft,
};
pub use hazard::Hazard;
pub use id::{HostKind, InvalidId, JoinRole, ObjectId, ResourceId, StepId, StepOutput};
pub use names::{HostName, PoolName, RunId, TargetId};
pub use plain::{is_steering, plain, plain_in_place, plain_json, plain_line, shortened};
pub use regular::{is_special, open_special, put, read_regular};
pub use resource::*;
pub use secret::{REDACTED, SecretText};
pub use stream::{BoxStream, Stream};
pub use target::{Failure, FailureKind, NODE_DEAD, StepOutputs, Target};
