//! `provision` turns racked hosts with an OS and SSH into a served model, from one declarative inventory.
//!
//! The modules, top to bottom; a module imports only from layers below its own (`tests/data/architecture.rs` checks it):
//!
//! | layer | modules |
//! |---|---|
//! | 7 | [`cli`] |
//! | 6 | [`fleet`] |
//! | 5 | [`run`], [`report`] |
//! | 4 | [`plan`] |
//! | 3 | [`import`], [`role`], [`serving`], [`executor`], [`reconciler`] |
//! | 2 | [`k0s`], [`inventory`], [`ssh`], [`artifact`], [`template`], [`redact`] |
//! | 1 | [`state`], [`event`], [`catalog`] |
//! | - | [`lab`]: a leaf that imports only `event` |

// Here and not in Cargo.toml: in tests and benches whatever is `pub` is unreachable.
#![warn(unreachable_pub)]

pub mod artifact;
pub mod catalog;
pub mod cli;
pub mod event;
pub mod executor;
pub mod fleet;
#[doc(hidden)]
pub mod fuzz;
pub mod import;
pub mod inventory;
pub mod k0s;
pub mod lab;
pub mod plan;
pub mod reconciler;
pub mod redact;
pub mod report;
pub mod role;
pub mod run;
pub mod serving;
pub mod ssh;
pub mod state;
pub mod template;
