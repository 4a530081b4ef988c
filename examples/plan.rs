//! The library without the command line: opens an inventory, observes its hosts, and prints how many steps an apply would
//! take on each target.
//!
//! ```text
//! cargo run --example plan -- inventories/three-nodes
//! ```

use provision::event::Events;
use provision::fleet::{Fleet, Purpose, Result, Selection, Source};

#[tokio::main]
async fn main() -> Result<()> {
    // TLS needs one provider for the whole process; which one is the program's choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let path = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let events = Events::none();
    let fleet =
        Fleet::open(Source::at(path).load()?, &Selection::default(), Purpose::Change, &events).await?;
    let plan = fleet.plan(fleet.observe(&events).await);
    for target in &plan.targets {
        println!("{}: {} steps", target.target, target.steps.len());
    }
    fleet.close()
}
