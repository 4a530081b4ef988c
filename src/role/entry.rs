//! The form of `role.yaml`: a list of entries, each one resource with what belongs to it.

use crate::state::*;
use serde::Deserialize;

/// One entry; exactly one kind is given.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(default)]
    why: Option<String>,
    #[serde(default)]
    restarts: Vec<String>,
    #[serde(default)]
    hazards: Vec<Hazard>,
    #[serde(default)]
    late: Vec<LateName>,
    #[serde(default, rename = "deadline_s")]
    deadline_s: Option<u64>,
    package: Option<Package>,
    package_repository: Option<PackageRepository>,
    file: Option<FileEntry>,
    directory: Option<Directory>,
    line_in_file: Option<LineInFile>,
    symlink: Option<Symlink>,
    download: Option<Download>,
    unit: Option<Unit>,
    kernel_module: Option<KernelModule>,
    sysctl: Option<Sysctl>,
    swap: Option<Swap>,
    hostname: Option<Hostname>,
    command: Option<Command>,
    reboot: Option<Reboot>,
}

/// A file: its content, or the template that makes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    path: String,
    content: Option<String>,
    template: Option<String>,
    mode: Option<u32>,
    owner: Option<String>,
    validate: Option<String>,
}

impl Entry {
    /// Turns it into a resource; `template` renders a template of the role.
    pub fn resource(
        self,
        role: &str,
        template: &dyn Fn(&str) -> Result<String, String>,
    ) -> Result<Resource, String> {
        let file = match self.file {
            None => None,
            Some(entry) => {
                let content = match (entry.content, entry.template) {
                    (Some(content), None) => content,
                    (None, Some(name)) => template(&name)?,
                    _ => return Err(format!("file {} takes either content or template", entry.path)),
                };
                Some(File {
                    path: entry.path,
                    content: Content::Text(content),
                    mode: entry.mode.unwrap_or(0o644),
                    owner: entry.owner.unwrap_or_else(|| "root:root".to_owned()),
                    validate: entry.validate,
                })
            }
        };
        let mut specs = [
            self.package.map(Spec::Package),
            self.package_repository.map(Spec::PackageRepository),
            file.map(Spec::File),
            self.directory.map(Spec::Directory),
            self.line_in_file.map(Spec::LineInFile),
            self.symlink.map(Spec::Symlink),
            self.download.map(Spec::Download),
            self.unit.map(Spec::Unit),
            self.kernel_module.map(Spec::KernelModule),
            self.sysctl.map(Spec::Sysctl),
            self.swap.map(Spec::Swap),
            self.hostname.map(Spec::Hostname),
            self.command.map(Spec::Command),
            self.reboot.map(Spec::Reboot),
        ]
        .into_iter()
        .flatten();
        let spec = specs.next().ok_or("an entry has no kind")?;
        if let Some(other) = specs.next() {
            return Err(format!("an entry is both {} and {}", spec.kind(), other.kind()));
        }
        let mut resource = Resource::new(role, spec);
        resource.why = self.why;
        resource.restarts = self.restarts;
        resource.hazards = self.hazards;
        resource.late = self.late;
        resource.deadline_s = self.deadline_s.unwrap_or(DEFAULT_DEADLINE_S);
        Ok(resource)
    }
}
