//! One command on many hosts.

use super::open::Fleet;
use super::tasks::Tasks;
use crate::executor::Ran;
use crate::state::{Failure, HostName};
use crate::template::quote;
use futures::Stream;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What is run, and how.
#[derive(Clone, Debug)]
pub struct Exec {
    /// One word is shell text; several are a command and its arguments.
    pub command: Vec<String>,
    /// Run as root instead of as the login.
    pub root: bool,
    /// Hosts of a pool at once, instead of the pool's `disruption.maxUnavailable`.
    pub at_once: Option<usize>,
    /// When a host's command is given up.
    pub deadline: Duration,
}

/// What came of it on one host.
#[derive(Debug)]
pub struct ExecResult {
    /// The host.
    pub host: HostName,
    /// Exit code and output, or why there is none.
    pub ran: Result<Ran, Failure>,
    /// How long it took.
    pub took: Duration,
}

impl Fleet {
    /// Runs a command on every selected host. Results come as hosts end. At most as many hosts of a pool at once as its
    /// disruption allows, since a command can take a host down.
    pub fn exec(&self, exec: &Exec) -> impl Stream<Item = ExecResult> + use<> {
        let inventory = &self.inventory;
        let permits: BTreeMap<&str, Arc<Semaphore>> = inventory
            .pools
            .values()
            .map(|pool| {
                let size = inventory.hosts_of(&pool.name).count();
                let most = exec.at_once.unwrap_or_else(|| pool.disruption.max_unavailable.of(size)).max(1);
                (pool.name.as_str(), Arc::new(Semaphore::new(most)))
            })
            .collect();
        let command = match exec.command.as_slice() {
            [one] => one.clone(),
            words => words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" "),
        };
        let mut tasks = Tasks::new();
        for (name, target) in &self.hosts {
            let permits = inventory.hosts.get(name).and_then(|h| permits.get(h.pool.as_str())).cloned();
            let (target, command) = (target.clone(), command.clone());
            let (root, deadline) = (exec.root, exec.deadline);
            tasks.spawn(name.clone(), async move {
                let _permit = match &permits {
                    Some(permits) => permits.acquire().await.ok(),
                    None => None,
                };
                let began = Instant::now();
                let ran = target.run(&command, root, deadline).await;
                (ran, began.elapsed())
            });
        }
        futures::stream::unfold(tasks, |mut tasks| async move {
            let (host, ended) = tasks.next().await?;
            let (ran, took) = ended.unwrap_or_else(|failure| (Err(failure), Duration::ZERO));
            Some((ExecResult { host, ran, took }, tasks))
        })
    }
}
