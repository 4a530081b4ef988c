//! The library entry: an inventory and its use cases, as typed calls with typed results. The command line, tests and benches
//! use it, and a controller inside a cluster could. It prints nothing and reads no arguments; progress is reported as
//! events.
//!
//! [`Source::load`] reads an inventory without contacting hosts. [`Fleet::open`] opens its hosts and cluster.
//! [`Fleet::observe`] and [`Fleet::plan`] compute pending changes, [`Fleet::apply`] carries them out. A process can open
//! several independent fleets. Every call can be dropped: running batches continue on the hosts, and [`Fleet::attach`]
//! follows them.

mod actor;
mod ahead;
mod api_keys;
mod apply;
mod approval;
mod archive;
mod backup;
mod bundle;
mod chat;
mod clients;
mod commit;
mod compare;
mod delivery;
mod distribute;
mod drift;
mod endpoint;
mod error;
mod exec;
mod gateway_certificates;
mod health;
mod history;
mod import;
mod init;
mod kubeconfig;
mod lab;
mod load;
mod noticed;
mod observe;
mod open;
mod policies;
mod policy;
mod preflight;
mod reach;
mod record;
mod report_file;
mod reset;
mod restore;
mod revision;
mod run_lock;
mod ssh;
mod state_dir;
mod status;
mod support;
mod tasks;
mod trust;
mod tunnel;

pub use crate::artifact::{BundleFile, Collected, FileKind, MirrorPlace};
pub use crate::lab::Wall;
pub use actor::RunAbout;
pub use api_keys::{KeyState, MadeKey, TenantKeys};
pub use apply::{Saved, compare_saved};
pub use approval::{Approvable, Approvals, LONGEST, approvals, approve, usual_key};
pub use archive::{BackupRecord, Restore};
pub use backup::{Backup, MadeBackup, backup_folder, backups_in};
pub use bundle::{Bundling, verify_bundle};
pub use chat::{ChatResult, chat_of};
pub use clients::{TenantEndpoint, endpoints};
pub use compare::{CompareError, Comparison, compare_inventories};
pub use distribute::{Distribution, Parcel, Peer, distribute};
pub use drift::{Webhook, notify, write_metrics};
pub use error::{Error, Result};
pub(crate) use error::{coded, one_of};
pub use exec::{Exec, ExecResult};
pub use health::HealthReport;
pub use history::{Run, Runs};
pub use import::{Import, ImportResult, formats, read_column};
pub use init::{FirstInventory, no_product};
pub use kubeconfig::{IssuedKubeconfig, MergedKubeconfig, Via, usual_kubeconfig};
pub use lab::{ControlPlanePrograms, LabStatus, OwnLab, dial, serve_lab};
pub use load::{Loaded, LockState, Source};
pub use observe::{Observation, Programs};
pub use open::{Fleet, Purpose, Reset, Selection};
pub use policies::policies_at;
pub use policy::{Asked, policy_findings, test_policies};
pub use preflight::Preflight;
pub use record::RunRecord;
pub use report_file::write_report;
pub use state_dir::StateDir;
pub use support::{Support, support_file};
pub use trust::HostKeys;
pub use tunnel::Tunnel;
