//! SSH: connections, host keys, authentication, bastions, sessions and tunnels. Knows nothing of what is run.

mod auth;
mod config;
mod connection;
pub mod known_hosts;
mod pool;
mod transport;
pub mod trust;

pub use auth::Credentials;
pub use config::{UserConfig, user_config};
pub use connection::Connection;
pub use pool::{Endpoint, Pool, PoolOptions, SshHost};
pub use transport::{BoxStream, Chunk, Dial, Session, SshError, SshErrorKind, Stream, Transport};

/// Raises the soft limit on open files to the hard one: 2,000 hosts are 2,000 sockets.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refusal leaves what there was; connections are limited anyway.
    let _ = setrlimit(Resource::Nofile, limit);
}
