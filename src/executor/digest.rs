//! Digests of what is on hosts.

use sha2::{Digest, Sha256};

/// Returns the lower-case hex sha256 of bytes.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
