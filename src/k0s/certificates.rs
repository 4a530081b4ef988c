//! Certificates of a controller: which k0s makes anew, and when that is due.

use crate::state::Certificate;
use x509_parser::pem::Pem;

/// k0s makes new certificates of these authorities each time it starts (k0s pkg/certificate/manager.go), and at no other time
/// (<https://github.com/k0sproject/k0s/issues/7812>).
const RENEWED: [&str; 3] = ["kubernetes-ca", "kubernetes-front-proxy-ca", "etcd-ca"];
/// They are due when less than this part of their life is left: 90 days of the year that k0s gives.
const PART: i64 = 4;
/// Characters of a common name (RFC 5280, ub-common-name).
const MOST_NAME: usize = 64;
/// More certificates than any controller has.
const MOST: usize = 100;

/// Reads certificates in PEM, one after the other; what is none is passed over.
pub fn certificates_of(pems: &str) -> Vec<Certificate> {
    let read = |pem: Pem| {
        let certificate = pem.parse_x509().ok()?;
        let name = |of: &x509_parser::x509::X509Name<'_>| {
            let name = of.iter_common_name().next().and_then(|n| n.as_str().ok()).unwrap_or_default();
            name.chars().take(MOST_NAME).collect()
        };
        Some(Certificate {
            name: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            authority: certificate.is_ca(),
            from_s: certificate.validity().not_before.timestamp(),
            until_s: certificate.validity().not_after.timestamp(),
        })
    };
    Pem::iter_from_buffer(pems.as_bytes()).flatten().take(MOST).filter_map(read).collect()
}

/// Returns the certificate that ends first of those that k0s would renew and that are due.
pub fn due(certificates: &[Certificate], now_s: i64) -> Option<&Certificate> {
    let own = |c: &&Certificate| !c.authority && RENEWED.contains(&c.issuer.as_str());
    let is_due = |c: &&Certificate| {
        c.until_s.saturating_sub(now_s).saturating_mul(PART) < c.until_s.saturating_sub(c.from_s)
    };
    certificates.iter().filter(own).filter(is_due).min_by_key(|c| c.until_s)
}

/// Returns the authority that ends within `seconds`: k0s never renews those.
pub fn authority_ends(certificates: &[Certificate], now_s: i64, seconds: i64) -> Option<&Certificate> {
    let ends = |c: &&Certificate| c.authority && c.until_s.saturating_sub(now_s) < seconds;
    certificates.iter().filter(ends).min_by_key(|c| c.until_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn certificate(issuer: &str, from_day: i64, until_day: i64) -> Certificate {
        let (from_s, until_s) = (from_day * DAY, until_day * DAY);
        Certificate { name: "x".into(), issuer: issuer.into(), authority: false, from_s, until_s }
    }

    #[test]
    fn a_certificate_is_due_in_the_last_quarter_of_its_life_if_k0s_renews_it() {
        let year = [certificate("kubernetes-ca", 0, 365)];
        assert_eq!(due(&year, 270 * DAY), None);
        assert_eq!(due(&year, 274 * DAY).map(|c| c.until_s), Some(365 * DAY));
        assert_eq!(due(&year, 400 * DAY).map(|c| c.until_s), Some(365 * DAY), "after its end too");
        let several = [
            certificate("etcd-ca", 0, 8),
            certificate("kubernetes-ca", 0, 4),
            certificate("kubernetes-ca", 3, 30),
        ];
        assert_eq!(due(&several, 7 * DAY).map(|c| c.until_s), Some(4 * DAY));
        // Of somebody's own authority, k0s leaves it as it is.
        assert_eq!(due(&[certificate("acme", 0, 1)], 2 * DAY), None);
        let authority = Certificate { authority: true, ..certificate("kubernetes-ca", 0, 3650) };
        assert_eq!(due(std::slice::from_ref(&authority), 3649 * DAY), None);
        assert!(authority_ends(std::slice::from_ref(&authority), 3300 * DAY, 365 * DAY).is_some());
        assert!(authority_ends(&[authority], 3000 * DAY, 365 * DAY).is_none());
        // A host says what time it is.
        for now_s in [i64::MIN, i64::MAX] {
            let _ = (due(&year, now_s), authority_ends(&year, now_s, DAY));
        }
    }

    #[test]
    fn certificates_are_read_one_after_the_other() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut ca = rcgen::CertificateParams::default();
        ca.distinguished_name.push(rcgen::DnType::CommonName, "etcd-ca");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let signed = ca.self_signed(&key).expect("signed");
        let issuer = rcgen::Issuer::new(ca, key);
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "etcd-server");
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2027, 1, 2);
        let own = rcgen::KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&own, &issuer).expect("signed");
        let found = certificates_of(&format!("{}no certificate\n{}", signed.pem(), leaf.pem()));
        let names: Vec<_> = found.iter().map(|c| (c.name.as_str(), c.issuer.as_str(), c.authority)).collect();
        assert_eq!(names, [("etcd-ca", "etcd-ca", true), ("etcd-server", "etcd-ca", false)]);
        assert_eq!(found[1].until_s, 1_798_848_000);
        assert_eq!(certificates_of("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), []);
    }
}
