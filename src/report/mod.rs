//! Output for people and machines: events as bars, plain lines or JSON lines; plans, summaries and comparisons as text,
//! Markdown or JSON. Decides nothing.

mod bars;
mod catalog;
mod comparison;
mod drift;
mod health;
mod junit;
mod layout;
mod live;
mod markdown;
mod plan;
mod policy;
mod preflight;
mod serving;
mod status;
mod summary;
mod waits;
mod words;

pub use catalog::{catalog_text, product_text};
pub use comparison::{comparison_markdown, comparison_text};
pub use drift::{drift_metrics, drift_text};
pub use health::health_lines;
pub use junit::{Check, junit};
pub use layout::{Columns, Last, columns, fit};
pub use live::{Mode, Shown, event_line, show};
pub use plan::{PlanView, plan_text};
pub use preflight::preflight_lines;
pub use serving::WorkloadView;
pub use status::{
    AcceleratorView, CertificateView, ControllerView, HostHealth, NodesView, PoolHealth, Problem, RouteView,
    StatusView, status_text,
};
pub use summary::{Ended, Failed, elapsed, run_summary, within};
pub use words::{count, names, say};

/// Heads every screen and record of a run against simulated hosts.
pub const LAB: &str =
    "LAB: simulated hosts on this machine; hardware, packages, k0s and engines are simulated";
