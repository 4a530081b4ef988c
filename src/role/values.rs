//! Values of a role's resources that no host takes as they are meant: paths that are written in two ways, names that a program
//! would read as options. Checked where they are literal, and once more when expressions are filled in.

use crate::state::Spec;

/// Returns what is wrong with a resource.
pub(super) fn refused(spec: &Spec) -> Option<String> {
    let named = |what: &str, name: &str| {
        (!is_name(name)).then(|| {
            format!("{what} `{name}` is not a name: it begins with a letter or digit, and has no spaces")
        })
    };
    match spec {
        Spec::Package(p) => named("package", &p.name)
            .or_else(|| p.version.as_deref().and_then(|v| named("package: version", v))),
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

/// Returns what is wrong with a path on a host: each file has one.
pub(super) fn path(kind: &str, path: &str) -> Option<String> {
    let why = match path.strip_prefix('/') {
        None => "absolute",
        Some(rest) if rest.split('/').any(|part| matches!(part, "" | "." | "..")) => {
            "the shortest way to write it: without `.`, `..` and empty parts"
        }
        Some(_) => return None,
    };
    Some(format!("{kind}: path `{path}` is not {why}"))
}

/// Returns what is wrong with an owner, `user:group`.
fn owner(kind: &str, owner: &str) -> Option<String> {
    let is_account = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.$".contains(c))
    };
    let (user, group) = owner.split_once(':').unwrap_or((owner, "x"));
    (!is_account(user) || !is_account(group)).then(|| format!("{kind}: owner `{owner}` is not user:group"))
}
