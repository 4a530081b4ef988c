//! A cluster is restored from a backup: why it must not be, the upload, and whether it is the same one afterwards.

use super::archive::Restore;
use super::error::{Result, coded};
use super::open::Fleet;
use crate::catalog::K0sStep;
use crate::event::Events;
use crate::executor::HostTarget;
use crate::inventory::HostState;
use crate::k0s::{self, RestoreState};
use crate::plan::Plan;
use crate::state::{Failure, FailureKind, HostName, LockRecord};
use indicatif::HumanBytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress of the upload is said.
const SAY_EVERY: Duration = Duration::from_secs(5);

fn refusal(message: String, hint: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Refused, "E-RESTORE", message).hint(hint)
}

impl Fleet {
    /// Returns what is restored.
    fn restore(&self) -> Result<&Restore> {
        let none = || coded("E-USAGE", "no backup is selected", "Name a file that `provision backup` made");
        self.selection.restore.as_ref().ok_or_else(none)
    }

    /// Returns the controller that is restored.
    fn first_controller(&self) -> Result<&Arc<HostTarget>> {
        let first = self.inventory.controllers().next().and_then(|host| self.hosts.get(&host.name));
        first.ok_or_else(|| {
            coded("E-RESTORE", "the inventory has no active controller", "Add one, then run the same command")
        })
    }

    /// Plans a restore: what an apply would do, with the step that restores the backup on the first controller. Returns the plan,
    /// how long observing took, and every reason why it must not be carried out.
    pub async fn plan_to_restore(&self, events: &Events) -> Result<(Plan, Duration, Vec<Failure>)> {
        let restore = self.restore()?;
        let mut refused = self.mismatches(restore);
        refused.extend(self.taken(restore).await?);
        let (plan, took) = self.plan_to_apply(events).await;
        let first = self.first_controller()?.host();
        if refused.is_empty() {
            for (target, why) in plan.unobserved().filter(|(target, _)| target.host() == Some(first)) {
                let mut failure = why.clone();
                failure.kind = FailureKind::Refused;
                failure.message =
                    format!("cannot restore to {target}, the first controller: {}", why.message);
                refused.push(failure);
            }
        }
        Ok((plan, took, refused))
    }

    /// Returns in which ways a backup is not one of this inventory.
    fn mismatches(&self, restore: &Restore) -> Vec<Failure> {
        let Some(record) = &restore.record else { return Vec::new() };
        let mut found = Vec::new();
        if record.inventory != self.inventory.name {
            let message = format!(
                "the backup belongs to inventory {}, but this is inventory {}",
                record.inventory, self.inventory.name
            );
            found.push(refusal(
                message,
                "Use that inventory, or a backup of this one: `provision backup --list`",
            ));
        }
        let wanted = &self.inventory.cluster.k0s_version;
        let step = K0sStep::between(&record.k0s, wanted);
        if step.is_none() {
            let message = format!("the backup's record has an invalid k0s version: {}", record.k0s);
            found.push(refusal(message, "Use another backup, with the record that `provision backup` wrote"));
        } else if !K0sStep::same_minor(&record.k0s, wanted) || step == Some(K0sStep::PatchDown) {
            let message =
                format!("the backup was made with k0s {}, but the inventory wants {wanted}", record.k0s);
            let hint = format!(
                "Set cluster.k0s.version to {}, run `provision lock`, restore, then upgrade",
                record.k0s
            );
            found.push(refusal(message, hint));
        }
        found
    }

    /// Returns the controllers that have a control plane, or may have one.
    async fn taken(&self, restore: &Restore) -> Result<Vec<Failure>> {
        let controls = |name: &HostName| {
            let host = self.inventory.hosts.get(name);
            host.filter(|h| self.inventory.pool_of(h).role.is_controller())
        };
        let first = self.first_controller()?.host().clone();
        let program = k0s::restore_state(&restore.sha256);
        let ask = |(name, host): (&HostName, &Arc<HostTarget>)| {
            let (name, host, program) = (name.clone(), host.clone(), program.clone());
            async move { (name, host.output(&program).await.map(|said| k0s::read_restore_state(&said))) }
        };
        let asked = self.hosts.iter().filter(|(name, _)| controls(name).is_some()).map(ask);
        let states = futures::future::join_all(asked).await;
        // Others may have joined it since.
        if states.iter().any(|(name, state)| *name == first && matches!(state, Ok(RestoreState::Restored))) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for (name, state) in states {
            match state {
                Ok(RestoreState::Empty | RestoreState::Begun | RestoreState::Restored) => {}
                Ok(RestoreState::Taken(why)) => found.push(refusal(
                    format!("{name} has a control plane: {why}"),
                    "A backup is restored onto controllers without data: run `provision destroy` first",
                )),
                Err(failure) => found.push(refusal(
                    format!("{name}: {}", failure.message),
                    format!("Its control plane may be running: repair the connection; if the machine is off for good, retire {name}"),
                )),
            }
        }
        let resting = self.inventory.hosts.values().filter(|h| h.state == HostState::Maintenance);
        for host in resting.filter(|h| controls(&h.name).is_some()) {
            let message = format!("{} is in maintenance: its control plane may be running", host.name);
            found.push(refusal(message, "Reset it and end the maintenance, or retire it"));
        }
        Ok(found)
    }

    /// Returns whether the backup is to be put onto the first controller; `false` if it is restored there already. Refuses where
    /// another run is at work, or a control plane has appeared since the plan was made.
    pub(super) async fn may_upload(&self) -> Result<bool> {
        let (restore, host) = (self.restore()?, self.first_controller()?);
        let state = host.output(&k0s::restore_state(&restore.sha256)).await?;
        match k0s::read_restore_state(&state) {
            RestoreState::Restored => return Ok(false),
            RestoreState::Taken(why) => {
                let message = format!("{} has a control plane: {why}", host.host());
                return Err(refusal(message, "Run the same command again").into());
            }
            RestoreState::Empty | RestoreState::Begun => {}
        }
        // Another run may be at it, from another machine.
        let facts = host.facts().await?;
        let others = |lock: &LockRecord| {
            lock.held || (lock.owner != self.holder.owner && lock.expires_s > facts.now_s)
        };
        if let Some(lock) = facts.lock.as_ref().filter(|lock| lock.run != self.run && others(lock)) {
            let message = format!("{} is locked by {} (run {})", host.host(), lock.owner, lock.run);
            return Err(Failure::new(FailureKind::Locked, "E-LOCKED", message)
                .hint("Wait for that run to end")
                .into());
        }
        Ok(true)
    }

    /// Puts the backup onto the first controller.
    pub(super) async fn upload_backup(&self, events: &Events) -> Result<()> {
        let (restore, host) = (self.restore()?, self.first_controller()?);
        let mut archive = restore.open()?;
        let (name, all) = (host.host(), HumanBytes(restore.bytes));
        events.note(format!("{name}: uploading {all}"));
        let mut said = Instant::now();
        let sum = host
            .put_large(k0s::UPLOADED, &mut archive, &mut |bytes| {
                if said.elapsed() > SAY_EVERY {
                    said = Instant::now();
                    events.note(format!("{name}: uploaded {} of {all}", HumanBytes(bytes)));
                }
            })
            .await?;
        match sum == restore.sha256 {
            true => Ok(()),
            false => {
                let message = "the backup has changed since it was checked".to_owned();
                Err(refusal(message, "Run the same command again").into())
            }
        }
    }

    /// Takes an upload away that nothing came of.
    pub(super) async fn drop_upload(&self) {
        if let Ok(host) = self.first_controller() {
            // What cannot be removed now keeps the host from starting another cluster.
            let _ = host.output(&k0s::forget_upload()).await;
        }
    }

    /// Compares the cluster with the one of the backup once the run is over, and forgets on the host that it was restored. Returns
    /// the cluster's uid; `None` where the backup has no record to compare with.
    pub async fn restored(&self) -> Result<Option<String>> {
        let wanted = self.restore()?.record.as_ref().and_then(|record| record.cluster.clone());
        let found = match &self.cluster {
            Some(cluster) => cluster.identity().await?,
            None => None,
        };
        if wanted.is_some() && wanted != found {
            let message =
                "the cluster does not match the backup: its namespace kube-system has a different uid";
            return Err(coded(
                "E-RESTORE",
                message,
                "See what the restore printed: `provision history show RUN HOST`",
            ));
        }
        self.first_controller()?.output(&k0s::forget_restore()).await?;
        Ok(wanted)
    }
}
