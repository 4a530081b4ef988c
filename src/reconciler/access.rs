//! How the cluster is reached: streams to a controller's loopback and to node ports, the admin kubeconfig, and a question
//! put to every controller. The caller decides what is behind them: SSH connections, or a cluster inside a test.

use crate::ssh::{BoxStream, SshError};
use crate::state::{Failure, HostName};
use async_trait::async_trait;

/// What one controller said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The controller.
    pub host: HostName,
    /// Its address as other controllers know it.
    pub address: String,
    /// What the program printed there.
    pub says: Result<String, Failure>,
}

/// How the cluster is reached.
#[async_trait]
pub trait Access: Send + Sync {
    /// Opens a stream to a port on a live controller's own loopback; any will do.
    async fn controller(&self, port: u16) -> Result<BoxStream, SshError>;
    /// Opens a stream to a node port on a worker; any will do.
    async fn worker(&self, port: u16) -> Result<BoxStream, SshError>;
    /// Returns the admin kubeconfig of a controller that has one; `None` where there is no cluster yet.
    async fn kubeconfig(&self) -> Result<Option<Vec<u8>>, Failure>;
    /// Runs a shell program that changes nothing on every controller of the inventory, all at once.
    async fn ask_controllers(&self, program: &str) -> Vec<Answer>;
    /// Runs a shell program as root on one controller, the first that answers, and returns what it prints. Twice does no
    /// more than once: a lost answer is asked for again.
    async fn on_controller(&self, program: &str) -> Result<String, Failure>;
}
