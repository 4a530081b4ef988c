//! Tests of `ssh` against a server in the same process, over loopback.

mod hosts;
mod logins;
mod parity;
mod server;
mod sessions;
mod taken;
