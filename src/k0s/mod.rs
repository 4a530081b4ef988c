//! Everything specific to k0s: paths, ports, units, command line, join tokens, etcd membership, the state of the control
//! plane, `k0s sysinfo`. Facts and pure functions only: modules above run programs on hosts and write to the API.

mod backup;
mod certificates;
mod command_line;
mod control_plane;
pub mod etcd;
mod joined;
mod paths;
mod pods;
mod ports;
mod reset;
mod steady;
mod sysinfo;
pub mod token;

pub use backup::{
    RESTORE, RestoreState, UPLOADED, backup, check_archive, forget_restore, forget_upload, is_restored,
    read_restore_state, restore, restore_state,
};
pub use certificates::{authority_ends, certificates_of, due};
pub use command_line::Install;
pub use control_plane::{
    ControlPlane, QUESTION_SECONDS, Question, QuestionAnswer, STATUS, control_plane, questions,
    running_version, subject_and_end,
};
pub use etcd::ControllerOutput;
pub use joined::{INSTALL, READY, STARTED, has_joined, is_ours, joined_with_token, may_have_joined};
pub use paths::*;
pub use pods::{NO_PODS, stop_pods};
pub use ports::*;
pub use reset::{RESET, RESET_DEADLINE_S, is_reset, remove_empty_folders, reset};
pub use steady::{STEADY, steady};
pub use sysinfo::{SysinfoItem, sysinfo};
