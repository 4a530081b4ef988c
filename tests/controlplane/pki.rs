//! Certificates of a control plane for tests, and the kubeconfig of its administrator. Not the lab's authority: the two
//! share no bug.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::path::{Path, PathBuf};

/// Files of a control plane, all in one folder.
pub struct Pki {
    dir: PathBuf,
    authority: String,
    admin: (String, String),
}

fn params(name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

impl Pki {
    /// Makes all files in a folder.
    pub fn make(dir: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        std::fs::create_dir_all(dir)?;
        let mut ca = params("kubernetes-ca", None);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let authority = ca.self_signed(&key)?.pem();
        std::fs::write(dir.join("ca.crt"), &authority)?;
        std::fs::write(dir.join("ca.key"), key.serialize_pem())?;
        let issuer = Issuer::new(ca, key);

        let names = ["kubernetes", "kubernetes.default.svc", "localhost", "127.0.0.1", "10.96.0.1"];
        let mut server = CertificateParams::new(names.map(str::to_owned).to_vec())?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        std::fs::write(dir.join("server.crt"), server.signed_by(&key, &issuer)?.pem())?;
        std::fs::write(dir.join("server.key"), key.serialize_pem())?;

        // Service account tokens are signed by a key of their own.
        let key = KeyPair::generate()?;
        std::fs::write(dir.join("sa.key"), key.serialize_pem())?;
        std::fs::write(dir.join("sa.pub"), key.public_key_pem())?;

        let mut admin = params("kubernetes-admin", Some("system:masters"));
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let admin = (admin.signed_by(&key, &issuer)?.pem(), key.serialize_pem());
        Ok(Self { dir: dir.to_owned(), authority, admin })
    }

    /// Returns a file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns an administrator's kubeconfig.
    pub fn kubeconfig(&self, server: &str) -> String {
        let (certificate, key) = &self.admin;
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: Default\nclusters:\n- name: local\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {}\ncontexts:\n- name: Default\n  context: {{cluster: local, user: user}}\nusers:\n- name: \
             user\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            STANDARD.encode(&self.authority),
            STANDARD.encode(certificate),
            STANDARD.encode(key),
        )
    }
}
