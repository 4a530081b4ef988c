//! Authentication: identities (plain, encrypted, with certificates), then the agent, then a password if one is set, in
//! sequence if the server requires several. Owns the order of attempts and the error that lists them.

use super::endpoint::Endpoint;
use super::handshake::{Checker, Destination, Learned};
use super::keyring::{Agent, AgentSigner, FromFile, Keyring, LocalSigner, Named, Offer};
use super::{SshError, SshErrorKind};
use crate::state::SecretText;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse as Interactive};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, HashAlg, PrivateKeyWithHashAlg};
use russh::{AgentAuthError, MethodKind, MethodSet};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;

/// sshd's MaxAuthTries is 6 by default, and at the sixth refusal it hangs up instead of answering.
const MOST_REFUSALS: usize = 6;
/// Questions of one keyboard-interactive exchange that are answered: a password, and PAM's empty last round.
const MOST_ROUNDS: usize = 4;

/// How a try ended.
enum Tried {
    /// Logged in.
    In,
    /// Accepted, and something else is wanted as well.
    Partly,
    /// Refused.
    Refused,
}

/// One login.
struct Login<'a> {
    handle: &'a mut Handle<Checker>,
    user: &'a str,
    rsa_hash: Option<Option<HashAlg>>,
    tried: Vec<String>,
    refusals: usize,
    accepted: Vec<String>,
    spent: HashSet<(KeyData, bool)>,
    unusable: Vec<String>,
    /// The methods that the server still accepts, if it has listed them.
    accepts: Option<MethodSet>,
}

/// Authenticates an endpoint's user; the error lists what was tried and how to check it manually.
pub(super) async fn authenticate(
    handle: &mut Handle<Checker>,
    at: &Destination<'_>,
    endpoint: &Endpoint,
    keyring: &Keyring,
    learned: &Mutex<Learned>,
) -> Result<(), SshError> {
    let mut login = Login {
        handle,
        user: &endpoint.user,
        rsa_hash: None,
        tried: Vec::new(),
        refusals: 0,
        accepted: Vec::new(),
        spent: HashSet::new(),
        unusable: Vec::new(),
        accepts: None,
    };
    let outcome = login.attempt(endpoint, keyring).await;
    if matches!(outcome, Ok(true)) {
        return Ok(());
    }
    let farewell = learned.lock().ok().and_then(|l| l.farewell.clone()).unwrap_or_default();
    Err(login.failure(at, &farewell, outcome.err()))
}

impl Login<'_> {
    /// Goes through keys, agent and password until the server is content or nothing is left. The keys that the inventory names
    /// come first. The others come in the order of OpenSSH (sshconnect2.c): keys of the configuration that the agent has, the
    /// agent's other keys, keys that are only in files.
    async fn attempt(&mut self, endpoint: &Endpoint, keyring: &Keyring) -> Result<bool, russh::Error> {
        let named = keyring.named();
        let certificates = keyring.certificates(&endpoint.certificates, &mut self.unusable);
        // A bastion has its own keys; those of the inventory are for the hosts behind it, and its last resort.
        let (first, mut others) = match endpoint.is_bastion {
            false => (keyring.files(named).await, endpoint.identities.clone()),
            true => (Vec::new(), endpoint.identities.clone()),
        };
        others.retain(|path| !named.contains(path));
        if endpoint.is_bastion {
            others.extend(named.iter().cloned());
        }
        let configured = keyring.files(&others).await;
        let keys = !endpoint.no_keys;
        let mut agent: Option<(Agent, Vec<Named>)> = None;
        let mut agent_asked = false;
        // A second round is for servers that want the password first and a key after it.
        for round in 0..2 {
            if keys && self.of_files(&first, &certificates).await? {
                return Ok(true);
            }
            if keys && self.takes_keys() && !agent_asked {
                agent_asked = true;
                agent = keyring.in_agent(&endpoint.agent, &mut self.unusable).await;
            }
            if let Some((agent, held)) = agent.as_mut().filter(|_| keys) {
                let known = || first.iter().chain(&configured);
                // Certificates of keys that are in no file.
                for (path, certificate) in &certificates {
                    let key = certificate.public_key();
                    if known().any(|file| file.public.as_ref() == Some(key))
                        || !held.iter().any(|n| n.offer.identity().0 == *key)
                    {
                        continue;
                    }
                    let offer = Offer::AgentCertificate(Box::new(certificate.clone()));
                    let named = Named { name: path.display().to_string(), offer };
                    if let Some(Tried::In) = self.offer(&named, Some(&mut *agent)).await? {
                        return Ok(true);
                    }
                }
                for file in known() {
                    if self.of_agent(agent, held, file, &certificates).await? {
                        return Ok(true);
                    }
                }
                for named in held.iter().filter(|_| !endpoint.identities_only) {
                    if let Some(Tried::In) = self.offer(named, Some(&mut *agent)).await? {
                        return Ok(true);
                    }
                }
            }
            if keys && self.of_files(&configured, &certificates).await? {
                return Ok(true);
            }
            if round == 0 && self.tried.is_empty() {
                // No credentials: an empty attempt makes the server list the methods that it accepts.
                let asked = self.handle.authenticate_none(self.user).await?;
                if asked.success() {
                    return Ok(true);
                }
                self.note(asked)?;
            }
            match self.password(keyring.password()).await? {
                Some(Tried::In) => return Ok(true),
                // Keys that were refused while the password was due may be welcome now.
                Some(Tried::Partly) => self.spent.clear(),
                Some(Tried::Refused) | None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Offers the keys of files; returns whether one was taken.
    async fn of_files(
        &mut self,
        files: &[FromFile],
        certificates: &[(PathBuf, Certificate)],
    ) -> Result<bool, russh::Error> {
        for file in files {
            // What an agent has offered already needs no private key here.
            if file.key.is_err()
                && file.public.as_ref().is_some_and(|p| self.spent.contains(&(p.clone(), false)))
            {
                continue;
            }
            for named in file.offers(certificates, &mut self.unusable) {
                if let Some(Tried::In) = self.offer(&named, None).await? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Offers what an agent has of a file's key: with its certificates, the agent's own too, and alone.
    async fn of_agent(
        &mut self,
        agent: &mut Agent,
        held: &[Named],
        file: &FromFile,
        certificates: &[(PathBuf, Certificate)],
    ) -> Result<bool, russh::Error> {
        let Some(public) = &file.public else { return Ok(false) };
        let of_key = |named: &&Named| named.offer.identity().0 == *public;
        let Some(key) = held.iter().filter(of_key).find(|n| matches!(n.offer, Offer::AgentKey(_))) else {
            return Ok(false);
        };
        self.unusable.retain(|problem| file.key.as_ref().err() != Some(problem));
        let mut offers: Vec<Named> = file
            .certificates(certificates, &mut self.unusable)
            .into_iter()
            .map(|(name, certificate)| Named { name, offer: Offer::AgentCertificate(certificate) })
            .collect();
        offers.extend(
            held.iter().filter(of_key).filter(|n| matches!(n.offer, Offer::AgentCertificate(_))).cloned(),
        );
        offers.push(key.clone());
        for named in &offers {
            if let Some(Tried::In) = self.offer(named, Some(&mut *agent)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn takes(&self, method: MethodKind) -> bool {
        self.refusals < MOST_REFUSALS && self.accepts.as_ref().is_none_or(|a| a.contains(&method))
    }

    fn takes_keys(&self) -> bool {
        self.takes(MethodKind::PublicKey)
    }

    /// Offers one key; `None` if there is no point in it.
    async fn offer(
        &mut self,
        named: &Named,
        agent: Option<&mut Agent>,
    ) -> Result<Option<Tried>, russh::Error> {
        if !self.takes_keys() || !self.spent.insert(named.offer.identity()) {
            return Ok(None);
        }
        self.tried.push(named.name.clone());
        let hash = if named.offer.is_rsa() { self.rsa_hash().await? } else { None };
        let user = self.user;
        let result = match (&named.offer, agent) {
            (Offer::Key(key), _) => {
                let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
                Ok(self.handle.authenticate_publickey(user, key).await?)
            }
            (Offer::Certificate(key, certificate), _) if named.offer.is_rsa() => {
                let mut signer = LocalSigner(key.clone());
                self.handle
                    .authenticate_certificate_with(user, certificate.as_ref().clone(), hash, &mut signer)
                    .await
            }
            (Offer::Certificate(key, certificate), _) => {
                let certificate = certificate.as_ref().clone();
                Ok(self.handle.authenticate_openssh_cert(user, key.clone(), certificate).await?)
            }
            (Offer::AgentKey(key), Some(agent)) => {
                self.handle.authenticate_publickey_with(user, key.as_ref().clone(), hash, agent).await
            }
            (Offer::AgentCertificate(certificate), Some(agent)) => {
                let certificate = certificate.as_ref().clone();
                let key = russh::keys::PublicKey::from(certificate.public_key().clone());
                let mut signer = AgentSigner { agent, key };
                self.handle.authenticate_certificate_with(user, certificate, hash, &mut signer).await
            }
            (Offer::AgentKey(_) | Offer::AgentCertificate(_), None) => return Ok(None),
        };
        match result {
            Ok(result) => {
                let tried = self.note(result)?;
                if matches!(tried, Tried::Partly) {
                    self.accepted.push(named.name.clone());
                }
                Ok(Some(tried))
            }
            Err(AgentAuthError::Send(_)) => Err(russh::Error::SendError),
            Err(AgentAuthError::Key(error)) => {
                // The server would have taken it, but it could not be used: a card pulled out, a click refused.
                self.unusable.push(format!("{} did not sign: {error}", named.name));
                Ok(Some(Tried::Refused))
            }
        }
    }

    /// The hash for RSA signatures. Waits up to a second for the server's extension info, so use it only for RSA keys.
    async fn rsa_hash(&mut self) -> Result<Option<HashAlg>, russh::Error> {
        if self.rsa_hash.is_none() {
            // Without extension info, SHA-2 is assumed; SHA-1 is used only if the server supports nothing else.
            let said = self.handle.best_supported_rsa_hash().await?;
            self.rsa_hash = Some(said.unwrap_or(Some(HashAlg::Sha512)));
        }
        Ok(self.rsa_hash.flatten())
    }

    /// Takes down what the server answered. A dead socket answers like a refusal with no methods left.
    fn note(&mut self, result: AuthResult) -> Result<Tried, russh::Error> {
        match result {
            AuthResult::Success => Ok(Tried::In),
            AuthResult::Failure { remaining_methods, partial_success } => {
                if remaining_methods.is_empty() && self.handle.is_closed() {
                    return Err(russh::Error::Disconnect);
                }
                self.accepts = Some(remaining_methods);
                if partial_success {
                    return Ok(Tried::Partly);
                }
                self.refusals += 1;
                Ok(Tried::Refused)
            }
        }
    }

    /// Gives the password, if there is one and the server takes it; once, since every wrong one may lock the account.
    async fn password(&mut self, password: Option<&SecretText>) -> Result<Option<Tried>, russh::Error> {
        let Some(password) = password else { return Ok(None) };
        let tried = if self.takes(MethodKind::KeyboardInteractive) {
            self.tried.push("the password (keyboard-interactive)".to_owned());
            self.keyboard_interactive(password).await?
        } else if self.takes(MethodKind::Password) {
            self.tried.push("the password".to_owned());
            let result = self.handle.authenticate_password(self.user, password.expose()).await?;
            self.note(result)?
        } else {
            return Ok(None);
        };
        if matches!(tried, Tried::Partly) {
            self.accepted.push("the password".to_owned());
        }
        Ok(Some(tried))
    }

    async fn keyboard_interactive(&mut self, password: &SecretText) -> Result<Tried, russh::Error> {
        let mut answer = self.handle.authenticate_keyboard_interactive_start(self.user, None).await?;
        for _ in 0..MOST_ROUNDS {
            let prompts = match answer {
                Interactive::Success => return Ok(Tried::In),
                Interactive::Failure { remaining_methods, partial_success } => {
                    return self.note(AuthResult::Failure { remaining_methods, partial_success });
                }
                Interactive::InfoRequest { prompts, .. } => prompts,
            };
            let mut responses = Vec::new();
            for prompt in &prompts {
                if prompt.echo || !prompt.prompt.to_lowercase().contains("password") {
                    self.unusable
                        .push(format!("the server prompts {:?}, which needs a person", prompt.prompt.trim()));
                    return Ok(Tried::Refused);
                }
                responses.push(password.expose().to_owned());
            }
            answer = self.handle.authenticate_keyboard_interactive_respond(responses).await?;
        }
        Ok(Tried::Refused)
    }

    /// Describes what was tried, what the server accepts, and how to check it manually.
    fn failure(&self, at: &Destination<'_>, farewell: &str, error: Option<russh::Error>) -> SshError {
        let (name, user) = (at.name, self.user);
        let too_many = farewell.contains("Too many authentication");
        if let Some(error) = error.filter(|_| !too_many) {
            let why = if farewell.is_empty() { error.to_string() } else { farewell.to_owned() };
            return SshError {
                kind: SshErrorKind::Lost,
                message: format!("connection to {name} closed while logging in as {user}: {why}"),
                hint: at.by_hand.clone(),
            };
        }
        let mut message = format!("{name} rejects the login of {user}");
        if self.tried.is_empty() {
            message.push_str("; no key to try");
        } else {
            message.push_str(&format!("; tried {}", self.tried.join(", ")));
        }
        if !self.accepted.is_empty() {
            message
                .push_str(&format!("; it accepted {} and requires another method", self.accepted.join(", ")));
        }
        let accepts =
            self.accepts.iter().flat_map(|a| a.iter()).map(<&str>::from).collect::<Vec<_>>().join(", ");
        if !accepts.is_empty() {
            message.push_str(&format!("; the server accepts {accepts}"));
        }
        if too_many {
            message.push_str("; too many attempts (MaxAuthTries): list the right key first");
        }
        for problem in &self.unusable {
            message.push_str(&format!("; {problem}"));
        }
        SshError { kind: SshErrorKind::Authentication, message, hint: at.by_hand.clone() }
    }
}
