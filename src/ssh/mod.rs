//! SSH: connections, host keys, authentication, bastions, sessions and tunnels. Knows nothing about the programs that run.
//!
//! [`Pool::host`] returns a [`Dial`], its connection is a [`Transport`], its programs are [`Session`]s. Only this module
//! uses russh: its API changes with nearly each of its thirty releases a year.

mod auth;
mod channel;
mod config;
mod connection;
mod credentials;
mod endpoint;
mod expand;
pub mod forward;
mod handshake;
mod key_pair;
mod keyring;
pub mod known_hosts;
mod limits;
mod link;
mod pool;
mod proxy;
mod transport;
pub mod trust;

pub use config::{
    AgentChoice, Asked, LocalEnd, UserConfig, parse as parse_user_config, user_config, without_config,
};
pub use connection::Connection;
pub use credentials::Credentials;
pub use endpoint::Endpoint;
pub use key_pair::KeyPair;
pub use limits::{Limits, raise_file_limit};
pub use pool::{Pool, PoolOptions, SshHost};
pub use transport::{Chunk, Dial, Session, SshError, SshErrorKind, Transport};
