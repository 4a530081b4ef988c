//! SSH: connections, host keys, authentication, bastions, sessions and tunnels. Knows nothing about the programs that run.
//!
//! [`Pool::host`] returns a [`Dial`], its connection is a [`Transport`], its programs are [`Session`]s. Only this module
//! uses russh: its API changes with nearly each of its thirty releases a year.

mod auth;
mod channel;
mod config;
mod connection;
mod credentials;
pub mod forward;
mod handshake;
mod keyring;
pub mod known_hosts;
mod limits;
mod link;
mod pool;
mod transport;
pub mod trust;

pub use config::{UserConfig, user_config};
pub use connection::Connection;
pub use credentials::Credentials;
pub use limits::{Limits, raise_file_limit};
pub use pool::{Endpoint, Pool, PoolOptions, SshHost};
pub use transport::{Chunk, Dial, Session, SshError, SshErrorKind, Transport};
