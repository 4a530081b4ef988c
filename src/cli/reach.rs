//! How the cluster is reached: over the SSH connections of its hosts. The laptop needs no route to it.

use crate::executor::HostTarget;
use crate::reconciler::{Access, Answer};
use crate::ssh::{BoxStream, Dial, SshError, SshErrorKind};
use crate::state::{Failure, FailureKind};
use async_trait::async_trait;
use std::sync::Arc;

/// How the cluster is reached: through SSH, over any host that answers.
pub struct OverSsh {
    /// Controllers, with the address that others know.
    pub controllers: Vec<(Arc<HostTarget>, Arc<dyn Dial>, String)>,
    /// Hosts that carry pods.
    pub workers: Vec<Arc<dyn Dial>>,
}

impl OverSsh {
    /// Opens a stream to a port on the first host that lets us.
    async fn first(dials: impl Iterator<Item = &Arc<dyn Dial>>, port: u16) -> Result<BoxStream, SshError> {
        let mut last = SshError {
            kind: SshErrorKind::Unreachable,
            message: "no host of that role takes part".to_owned(),
            hint: "provision status".to_owned(),
        };
        for dial in dials {
            let stream = async { dial.dial().await?.tunnel("127.0.0.1", port).await };
            match stream.await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

#[async_trait]
impl Access for OverSsh {
    async fn controller(&self, port: u16) -> Result<BoxStream, SshError> {
        Self::first(self.controllers.iter().map(|(_, dial, _)| dial), port).await
    }

    async fn worker(&self, port: u16) -> Result<BoxStream, SshError> {
        Self::first(self.workers.iter(), port).await
    }

    async fn kubeconfig(&self) -> Result<Option<Vec<u8>>, Failure> {
        let mut failure = None;
        for (host, ..) in &self.controllers {
            match host.read_file("/var/lib/k0s/pki/admin.conf").await {
                Ok(Some(text)) => return Ok(Some(text)),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        // A controller that cannot be asked may well have a cluster: that is no "there is none".
        failure.map_or(Ok(None), Err)
    }

    async fn ask_controllers(&self, program: &str) -> Vec<Answer> {
        let ask = |(host, _, address): &(Arc<HostTarget>, Arc<dyn Dial>, String)| {
            let (host, address) = (host.clone(), address.clone());
            async move { Answer { host: host.host().clone(), address, says: host.output(program).await } }
        };
        futures::future::join_all(self.controllers.iter().map(ask)).await
    }

    async fn on_controller(&self, program: &str) -> Result<String, Failure> {
        let mut failure = Failure::new(FailureKind::Unobserved, "E-NO-CLUSTER", "there is no controller");
        for (host, ..) in &self.controllers {
            match host.output(program).await {
                Ok(said) => return Ok(said),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}
