//! Certificates of tenants' gateways, checked before anything is changed: a proxy keeps the earlier one where a new one does not fit
//! its key, and clients find out when one has ended.

use super::error::{Result, coded};
use crate::inventory::{Inventory, Secrets, Tenant, Tls};
use crate::state::{Certificate, SecretText};
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// So long before its end a certificate is told of: most authorities have given another one by then.
const SOON: SignedDuration = SignedDuration::from_hours(21 * 24);

/// Refuses certificates that cannot be read, and keys that are not theirs. Keys that cannot be read on this machine are passed over:
/// whatever needs them says so.
pub(super) async fn check(inventory: &Inventory, secrets: &Secrets) -> Result<()> {
    for tenant in inventory.tenants.values() {
        let Some(tls) = &tenant.tls else { continue };
        certificate(&tenant.name, tls)?;
        if let Ok(key) = secrets.resolve(&tls.key).await {
            fits(&tenant.name, tls, &key)?;
        }
    }
    Ok(())
}

/// Returns the warnings about certificates that are not valid now, or soon will not be.
pub(super) fn warnings(inventory: &Inventory, now: Timestamp) -> Vec<String> {
    let of = |tenant: &Tenant| {
        let tls = tenant.tls.as_ref()?;
        ends(&tenant.name, tls, &certificate(&tenant.name, tls).ok()?, now)
    };
    inventory.tenants.values().filter_map(of).collect()
}

fn certificate(tenant: &str, tls: &Tls) -> Result<Certificate> {
    let pem = tls.chain.first().map(String::as_str).unwrap_or_default();
    crate::k0s::certificates_of(pem).into_iter().next().ok_or_else(|| {
        let message = format!("tenant {tenant}: {} is not an X.509 certificate", tls.file);
        coded("E-TLS", message, "Name a file with the gateway's certificate first, then its chain")
    })
}

/// Returns the warning about a certificate's dates, if there is one.
fn ends(tenant: &str, tls: &Tls, certificate: &Certificate, now: Timestamp) -> Option<String> {
    let day = |seconds| Timestamp::from_second(seconds).map(|t| t.strftime("%Y-%m-%d").to_string());
    let is = match now.as_second() {
        now if now >= certificate.until_s => "ended on",
        now if now < certificate.from_s => "begins on",
        now if certificate.until_s - now < SOON.as_secs() => "ends on",
        _ => return None,
    };
    let at = if is == "begins on" { certificate.from_s } else { certificate.until_s };
    let at = day(at).unwrap_or_default();
    Some(format!("tenant {tenant}: the certificate in {} {is} {at}", tls.file))
}

/// Refuses a key that is not the certificate's.
fn fits(tenant: &str, tls: &Tls, key: &SecretText) -> Result<()> {
    let wrong = |what: &str| {
        let message = format!("tenant {tenant}: secret {} {what}", tls.key);
        let hint = format!("Give `tls.key` the private key of the first certificate in {}", tls.file);
        coded("E-TLS", message, hint)
    };
    let private = PrivateKeyDer::from_pem_slice(key.expose().as_bytes());
    let private = private.map_err(|_| wrong("is not an unencrypted private key in PEM"))?;
    let signs = any_supported_type(&private).map_err(|_| wrong("is not an RSA, ECDSA or Ed25519 key"))?;
    let chain: Vec<CertificateDer<'static>> =
        tls.chain.iter().filter_map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok()).collect();
    match CertifiedKey::new(chain, signs).keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(wrong(&format!("is not the key of the certificate in {}", tls.file)))
        }
        // Where a key does not say what its public half is, the proxy finds out.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn made(days: std::ops::Range<i64>) -> (Tls, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        let at = |day: i64| std::time::UNIX_EPOCH + std::time::Duration::from_secs(day as u64 * 86_400);
        (params.not_before, params.not_after) = (at(days.start).into(), at(days.end).into());
        let chain = vec![params.self_signed(&key).expect("a certificate").pem()];
        let tls = Tls { chain, file: "ads.crt".into(), key: "ads-tls".into() };
        (tls, key)
    }

    #[test]
    fn a_certificate_is_told_of_before_it_ends_and_its_key_has_to_fit() {
        let (tls, key) = made(100..200);
        let at = |day: i64| Timestamp::from_second(day * 86_400).expect("a time");
        let read = super::certificate("ads", &tls).expect("readable");
        let said = |day| ends("ads", &tls, &read, at(day));
        assert_eq!(said(150), None);
        for (day, wanted) in
            [(99, "begins on 1970-04-11"), (180, "ends on 1970-07-20"), (200, "ended on 1970-07-20")]
        {
            assert_eq!(said(day), Some(format!("tenant ads: the certificate in ads.crt {wanted}")));
        }
        fits("ads", &tls, &SecretText::new(key.serialize_pem())).expect("its key");
        let other = KeyPair::generate().expect("a key").serialize_pem();
        for (key, wanted) in [
            (other.as_str(), "is not the key of the certificate"),
            ("x", "is not an unencrypted private key"),
        ] {
            let why = fits("ads", &tls, &SecretText::new(key)).expect_err("refused").to_string();
            assert!(why.contains(wanted) && !why.contains("PRIVATE"), "{why}");
        }
        let none = Tls {
            chain: vec!["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into()],
            ..tls
        };
        assert!(super::certificate("ads", &none).is_err());
    }
}
