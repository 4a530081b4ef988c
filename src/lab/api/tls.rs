//! The cluster's certificate authority: the API's certificate, client certificates, and the kubeconfigs around them.

use super::identity::Identity;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate could not be signed.
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The certificate could not be served.
    #[error("set TLS up")]
    Tls(#[from] rustls::Error),
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    key: String,
}

/// Validity as k0s gives it: ten years for authorities, one for what they sign.
const DAYS: (u64, u64) = (3650, 365);

fn valid(params: &mut CertificateParams, days: u64) {
    valid_for(params, Duration::from_secs(days * 86_400));
}

fn valid_for(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    // A clock that is a little behind must not refuse what was just made.
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + life).into();
}

/// A certificate with its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// Makes a new authority.
    pub fn new() -> Result<Self, AuthorityError> {
        let (params, key) = (Self::params(), KeyPair::generate()?);
        let certificate = params.self_signed(&key)?.pem();
        let key_text = key.serialize_pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate, key: key_text })
    }

    /// Returns one that was made before, from its certificate and key in PEM.
    pub fn again(certificate: String, key: String) -> Result<Self, AuthorityError> {
        let pair = KeyPair::from_pem(&key)?;
        Ok(Self { issuer: Issuer::new(Self::params(), pair), certificate, key })
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("kubernetes-ca", None);
        valid(&mut params, DAYS.0);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params
    }

    /// Returns the authority's certificate in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Returns the authority's key in PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Makes a client certificate.
    pub fn client(&self, who: &Identity) -> Result<Pair, AuthorityError> {
        self.client_for(who, Duration::from_secs(DAYS.1 * 86_400))
    }

    /// Makes a client certificate with another life.
    pub fn client_for(&self, who: &Identity, life: Duration) -> Result<Pair, AuthorityError> {
        let mut params = CertificateParams::default();
        valid_for(&mut params, life);
        params.distinguished_name = named(&who.user, who.groups.first().map(String::as_str));
        self.signed(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Makes a server certificate for these names and addresses.
    pub fn server_pair(&self, names: &[String]) -> Result<Pair, AuthorityError> {
        let mut params = CertificateParams::new(names.to_vec())?;
        valid(&mut params, DAYS.1);
        params.distinguished_name = named("kubernetes", None);
        self.signed(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn signed(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Pair, AuthorityError> {
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Returns what serves TLS under these names and addresses. Client certificates are asked for, not demanded: one
    /// without any gets a 401. Unlike with a real API, one of another authority ends the connection.
    pub fn server(&self, names: &[String]) -> Result<Arc<rustls::ServerConfig>, AuthorityError> {
        let pair = self.server_pair(names)?;
        let provider = Arc::new(ring::default_provider());
        let unusable = |why: String| rustls::Error::General(format!("a certificate of our own: {why}"));
        let unreadable = |why: rustls::pki_types::pem::Error| unusable(why.to_string());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(unreadable)?)?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let clients = clients.allow_unauthenticated().build().map_err(|why| unusable(why.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(unreadable)?;
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).map_err(unreadable)?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn named(name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut found = DistinguishedName::new();
    if let Some(organization) = organization {
        found.push(DnType::OrganizationName, organization);
    }
    found.push(DnType::CommonName, name);
    found
}

/// Returns a kubeconfig as k0s writes it.
pub fn kubeconfig(ca: &str, server: &str, cluster: &str, context: &str, user: &str, pair: &Pair) -> String {
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {server}\n  name: {cluster}\n\
         contexts:\n- context:\n    cluster: {cluster}\n    user: {user}\n  name: {context}\n\
         current-context: {context}\nkind: Config\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        STANDARD.encode(ca),
        STANDARD.encode(&pair.certificate),
        STANDARD.encode(&pair.key)
    )
}
