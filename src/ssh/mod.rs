//! SSH: connections, host keys, authentication, bastions, sessions and tunnels. Knows nothing of what is run.

mod transport;

pub use transport::{BoxStream, Chunk, Dial, Session, SshError, SshErrorKind, Stream, Transport};
