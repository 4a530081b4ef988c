//! Tier 1: data tests. Files in, golden text out; no host, no network. One module a room.

mod artifact;
mod catalog;
mod executor;
mod house;
mod inventory;
mod plan;
mod reconciler;
mod report;
mod role;
mod run;
mod serving;
mod ssh;
