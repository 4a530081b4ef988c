//! `provision` turns racked hosts with an OS and SSH into a served model, from one declarative inventory.
//!
//! The rooms, top to bottom; a room imports only from floors below its own (`tests/data/house.rs` proves it):
//!
//! | floor | rooms |
//! |---|---|
//! | 6 | [`cli`] |
//! | 5 | [`run`], [`report`] |
//! | 4 | [`plan`] |
//! | 3 | [`role`], [`serving`], [`executor`], [`reconciler`] |
//! | 2 | [`inventory`], [`ssh`], [`artifact`], [`template`] |
//! | 1 | [`state`], [`event`], [`catalog`] |
//! | - | [`lab`]: a leaf that imports only `event` |

pub mod artifact;
pub mod catalog;
pub mod cli;
pub mod event;
pub mod executor;
pub mod inventory;
pub mod lab;
pub mod plan;
pub mod reconciler;
pub mod report;
pub mod role;
pub mod run;
pub mod serving;
pub mod ssh;
pub mod state;
pub mod template;
