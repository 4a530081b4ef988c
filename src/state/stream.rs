//! A byte stream, whatever carries it: the cluster is spoken to over one, and SSH opens them.

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A boxed byte stream.
pub type BoxStream = Box<dyn Stream>;
