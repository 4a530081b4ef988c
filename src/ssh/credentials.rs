//! What a login may be tried with.

use crate::state::SecretText;
use std::path::PathBuf;

/// What may be tried.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Private key files, tried first, in order. A `KEY-cert.pub` next to one is offered before it.
    pub identities: Vec<PathBuf>,
    /// Opens encrypted ones.
    pub passphrase: Option<SecretText>,
    /// Ask the agent.
    pub agent: bool,
    /// Where the agent listens; `SSH_AUTH_SOCK` unless given.
    pub agent_socket: Option<PathBuf>,
    /// The login's password, for servers that want one (keyboard-interactive or password), after the keys.
    pub password: Option<SecretText>,
}
