//! How the cluster is reached: streams to a controller's loopback and to node ports, the admin kubeconfig, and programs
//! run on every controller. The caller decides what is behind them: SSH connections, or a cluster inside a test.

use crate::k0s::ControllerOutput;
use crate::state::{BoxStream, Failure, SecretText};
use async_trait::async_trait;

/// How the cluster is reached.
#[async_trait]
pub trait Access: Send + Sync {
    /// Opens a stream to a port on a live controller's own loopback; any will do.
    async fn controller(&self, port: u16) -> Result<BoxStream, Failure>;
    /// Opens a stream to a node port on a worker; any will do.
    async fn worker(&self, port: u16) -> Result<BoxStream, Failure>;
    /// Returns the admin kubeconfig of a controller that has one; `None` where there is no cluster yet.
    async fn kubeconfig(&self) -> Result<Option<Vec<u8>>, Failure>;
    /// Runs a shell program that changes nothing on every controller of the inventory, all at once.
    async fn run_on_controllers(&self, program: &str) -> Vec<ControllerOutput>;
    /// Runs a shell program as root on one controller, the first that answers anything but
    /// [`NO_CONTROL_PLANE`](crate::k0s::NO_CONTROL_PLANE), and returns what it prints. Twice does no more than once: a lost
    /// answer is asked for again.
    async fn on_controller(&self, program: &str) -> Result<String, Failure>;
    /// Returns an API key for a tenant's gateway, made for one question; `None` if it asks for none, or none can be made here.
    fn gateway_key(&self, _tenant: &str) -> Option<SecretText> {
        None
    }
    /// Returns the certificate, as PEM, that a tenant's gateway presents; `None` if it speaks plain HTTP.
    fn gateway_certificate(&self, _tenant: &str) -> Option<String> {
        None
    }
}
