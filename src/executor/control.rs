//! A controller is asked about its control plane.

use super::{HostTarget, Look, LookEnd};
use crate::k0s::{ControlPlane, QUESTION_SECONDS, QuestionAnswer, control_plane, questions};
use crate::state::Failure;

impl HostTarget {
    /// Returns the state of the control plane on a controller. Changes nothing.
    pub async fn control_plane(&self) -> Result<ControlPlane, Failure> {
        let looks: Vec<Look> = questions()
            .into_iter()
            .map(|question| Look {
                name: question.name.to_owned(),
                command: question.command,
                seconds: QUESTION_SECONDS,
                most_kib: question.most_kib,
            })
            .collect();
        let looked = self.look(&looks).await?;
        Ok(control_plane(|name| {
            let looked = looked.get(name)?;
            let exit = match looked.end {
                LookEnd::Exit(status) => Some(status),
                LookEnd::TimedOut => None,
            };
            Some(QuestionAnswer { text: looked.text.clone(), exit })
        }))
    }
}
