//! Checks of the values in a role's resources: one way to write each path, and no name that a program would parse as an option.
//! Literal values are checked by `validate`, those with expressions when they are evaluated.

use crate::state::Spec;

/// Returns what is wrong with a resource.
pub(super) fn refused(spec: &Spec) -> Option<String> {
    let named = |what: &str, name: &str| {
        (!is_name(name)).then(|| {
            format!("invalid {what} name `{name}`: it must start with a letter or digit and contain no spaces or slashes")
        })
    };
    match spec {
        Spec::Package(p) => named("package", &p.name).or_else(|| {
            let version = p.version.as_deref().filter(|v| !is_name(v))?;
            Some(format!("package {}: invalid version `{version}`", p.name))
        }),
        Spec::PackageRepository(r) => named("package-repository", &r.name),
        Spec::Unit(u) => named("unit", &u.name),
        Spec::KernelModule(m) => named("kernel-module", &m.name),
        Spec::Sysctl(s) => named("sysctl", &s.key),
        Spec::Hostname(h) => named("hostname", &h.name),
        Spec::File(f) => path("file", &f.path).or_else(|| owner("file", &f.owner)),
        Spec::Directory(d) => path("directory", &d.path).or_else(|| owner("directory", &d.owner)),
        Spec::LineInFile(l) => path("line-in-file", &l.path),
        Spec::Symlink(l) => path("symlink", &l.path),
        Spec::Download(d) => path("download", &d.path),
        Spec::Mount(m) => path("mount", &m.path),
        _ => None,
    }
}

/// Returns whether a text is the name of a package, a unit, a module or a kernel setting, and nothing that a program reads as an
/// option or a path.
fn is_name(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_graphic() && c != '/';
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && text.chars().all(inside)
}

/// Returns what is wrong with a path on a host. There is one way to write each, so that two resources for one file are noticed.
pub(super) fn path(kind: &str, path: &str) -> Option<String> {
    let why = match path.strip_prefix('/') {
        None => "be absolute",
        Some(rest) if rest.split('/').any(|part| matches!(part, "" | "." | "..")) => {
            "not contain `.`, `..` or empty parts"
        }
        Some(_) => return None,
    };
    Some(format!("{kind}: path `{path}` must {why}"))
}

/// Returns what is wrong with an owner, `user:group`.
fn owner(kind: &str, owner: &str) -> Option<String> {
    let is_account = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.$".contains(c))
    };
    let (user, group) = owner.split_once(':').unwrap_or((owner, "x"));
    (!is_account(user) || !is_account(group))
        .then(|| format!("{kind}: invalid owner `{owner}`, expected user:group"))
}
