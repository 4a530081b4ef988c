//! Removes what a role no longer has: only resources recorded in managed.json, by kind and id.

use super::kind::{self, Context};
use crate::state::{
    Content, Directory, Download, Ensure, File, HostKind, KernelModule, LineInFile, Managed, Mount, Package,
};
use crate::state::{PackageRepository, ResourceId, Spec, Symlink, Sysctl, Unit};

/// Returns shell that removes a managed resource; `None` if its kind leaves things as they are.
pub(super) fn shell(managed: &Managed, context: &Context) -> Option<String> {
    let ResourceId::Host(kind, name) = &managed.id else { return None };
    let name = name.clone();
    let spec = match kind {
        HostKind::Package => {
            Spec::Package(Package { name, version: None, ensure: Ensure::Present, hold: true })
        }
        HostKind::PackageRepository => {
            let definition = match context.package_manager {
                Some(crate::state::PackageManager::Dnf) => String::new(),
                _ => "URIs:".to_owned(),
            };
            Spec::PackageRepository(PackageRepository { name, definition, key: None })
        }
        HostKind::File => Spec::File(File {
            path: name,
            content: Content::Text(String::new()),
            mode: 0,
            owner: String::new(),
            validate: None,
        }),
        HostKind::Directory => Spec::Directory(Directory { path: name, mode: 0, owner: String::new() }),
        HostKind::LineInFile => {
            let (path, line) = name.split_once('#')?;
            Spec::LineInFile(LineInFile { path: path.to_owned(), name: line.to_owned(), line: String::new() })
        }
        HostKind::Symlink => Spec::Symlink(Symlink { path: name, target: String::new() }),
        HostKind::Download => Spec::Download(Download {
            path: name,
            urls: Vec::new(),
            sha256: String::new(),
            mode: 0,
            version: None,
            from: None,
        }),
        HostKind::Unit => Spec::Unit(Unit { name, enabled: Some(true), active: Some(true), masked: false }),
        HostKind::KernelModule => {
            Spec::KernelModule(KernelModule { name, ensure: Ensure::Present, version: None })
        }
        HostKind::Mount => {
            let (what, kind, options) = Default::default();
            Spec::Mount(Mount { path: name, what, kind, options })
        }
        HostKind::Sysctl => Spec::Sysctl(Sysctl { key: name, value: String::new(), raise_only: false }),
        HostKind::Filesystem | HostKind::Swap | HostKind::Hostname | HostKind::Command | HostKind::Reboot => {
            return None;
        }
    };
    kind::of(&spec)?.remove(context)
}
