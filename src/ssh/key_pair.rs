//! A key pair for a short while, such as that by which hosts pass files to each other. The private half is in memory alone until
//! it is given to a host.

use crate::state::SecretText;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;

/// A fresh Ed25519 key pair.
pub struct KeyPair {
    /// In OpenSSH's format.
    pub private: SecretText,
    /// As in authorized_keys, without a comment.
    pub public: String,
}

impl KeyPair {
    /// Makes one; the error says why it could not be made.
    pub fn generate() -> Result<Self, String> {
        // Key generation of ssh-key wants a random number generator of its own version; raw seeds need none.
        let mut seed: [u8; 32] = rand::random();
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        zeroize::Zeroize::zeroize(&mut seed);
        let private = key.to_openssh(LineEnding::LF).map_err(|e| e.to_string())?;
        let public = key.public_key().to_openssh().map_err(|e| e.to_string())?;
        Ok(Self { private: SecretText::new(private.as_str()), public: public.trim().to_owned() })
    }
}
