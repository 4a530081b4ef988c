//! Taking away what a role no longer wants: only what managed.json says is ours, by kind and id.

use super::kind::{self, Context};
use crate::state::{
    Content, Directory, Download, Ensure, File, KernelModule, LineInFile, Managed, Mount, Package,
};
use crate::state::{PackageRepository, Spec, Symlink, Sysctl, Unit};

/// Returns shell that removes a managed resource; `None` if its kind leaves things as they are.
pub(super) fn shell(managed: &Managed, context: &Context) -> Option<String> {
    let name = managed.id.strip_prefix(&format!("{}/", managed.kind))?.to_owned();
    let spec = match managed.kind.as_str() {
        "package" => Spec::Package(Package { name, version: None, ensure: Ensure::Present, hold: true }),
        "package-repository" => {
            let definition = match context.package_manager {
                Some(crate::state::PackageManager::Dnf) => String::new(),
                _ => "URIs:".to_owned(),
            };
            Spec::PackageRepository(PackageRepository { name, definition, key: None })
        }
        "file" => Spec::File(File {
            path: name,
            content: Content::Text(String::new()),
            mode: 0,
            owner: String::new(),
            validate: None,
        }),
        "directory" => Spec::Directory(Directory { path: name, mode: 0, owner: String::new() }),
        "line-in-file" => {
            let (path, line) = name.split_once('#')?;
            Spec::LineInFile(LineInFile { path: path.to_owned(), name: line.to_owned(), line: String::new() })
        }
        "symlink" => Spec::Symlink(Symlink { path: name, target: String::new() }),
        "download" => {
            Spec::Download(Download { path: name, urls: Vec::new(), sha256: String::new(), mode: 0 })
        }
        "unit" => Spec::Unit(Unit { name, enabled: Some(true), active: Some(true), masked: false }),
        "kernel-module" => Spec::KernelModule(KernelModule { name, ensure: Ensure::Present, version: None }),
        "mount" => {
            let (what, kind, options) = Default::default();
            Spec::Mount(Mount { path: name, what, kind, options })
        }
        "sysctl" => Spec::Sysctl(Sysctl { key: name, value: String::new(), raise_only: false }),
        _ => return None,
    };
    kind::of(&spec)?.remove(context)
}
