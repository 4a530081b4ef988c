//! What happened, as typed values. Modules emit events; `report/` shows them; nothing here depends on a terminal. Names are
//! plain text so that the lab, which shares no other module, can emit them too.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// One thing that happened. `target` is a host name or `cluster`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
#[allow(missing_docs, reason = "the fields are named for what they hold")]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run began; `about_s` is its estimated time in seconds, if known.
    RunStarted { run: String, inventory: String, hosts: usize, steps: usize, lab: bool, about_s: Option<u64> },
    /// A target takes part in the run that began, with so many steps.
    TargetPlanned { target: String, steps: usize },
    /// A target is about to be observed.
    Observing { target: String },
    /// A target was observed.
    Observed { target: String, elapsed: Duration, resources: usize },
    /// A target could not be observed.
    Unobserved { target: String, code: String, message: String },
    /// A target waits, and for what; ends with its next event.
    Waiting { target: String, reason: String },
    /// A node's pods have left it.
    Drained { target: String, elapsed: Duration },
    /// A node that was drained serves again.
    InService { target: String, elapsed: Duration },
    /// A step began.
    StepStarted { target: String, step: String, what: String },
    /// Progress of a step.
    StepProgress { target: String, step: String, note: String },
    /// A step ended well; `kind` is that of its resource.
    StepDone {
        target: String,
        step: String,
        #[serde(default)]
        kind: String,
        what: String,
        change: String,
        elapsed: Duration,
    },
    /// A step was not needed after all.
    StepSkipped { target: String, step: String, reason: String },
    /// A step failed.
    StepFailed {
        target: String,
        step: String,
        code: String,
        message: String,
        exit: Option<i32>,
        elapsed: Duration,
    },
    /// A line of a step's output, without secrets.
    Output { target: String, step: String, line: String },
    /// Everything planned for a target is done.
    TargetDone { target: String, changed: usize, elapsed: Duration },
    /// A target stopped.
    TargetFailed { target: String, code: String, message: String },
    /// Something a person should know, on the whole run or on one target.
    Warning { target: Option<String>, message: String },
    /// A note on what goes on, for things of over a second outside a run (downloads, the lab).
    Note { message: String },
    /// A run ended.
    RunFinished { run: String, converged: usize, failed: usize, elapsed: Duration },
}

/// What sees each event at once, before anybody shows it.
type Tap = Arc<dyn Fn(&Event) + Send + Sync>;

/// Where events go; cheap to clone, never blocks, and dropping the receiver is no error.
#[derive(Clone)]
pub struct Events {
    sender: Option<mpsc::UnboundedSender<Event>>,
    tap: Option<Tap>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Events {
    /// Returns a sink and the end that reads from it.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender: Some(sender), tap: None }, receiver)
    }

    /// Returns a sink that drops everything.
    pub fn none() -> Self {
        Self { sender: None, tap: None }
    }

    /// Returns the same sink with something that sees each event as it is emitted.
    pub fn tapped(&self, tap: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self { sender: self.sender.clone(), tap: Some(Arc::new(tap)) }
    }

    /// Emits an event.
    pub fn emit(&self, event: Event) {
        if let Some(tap) = &self.tap {
            tap(&event);
        }
        if let Some(sender) = &self.sender {
            let _ = sender.send(event);
        }
    }

    /// Emits a note.
    pub fn note(&self, message: impl Into<String>) {
        self.emit(Event::Note { message: message.into() });
    }
}
