//! The files of an inventory, and which may be read: regular files of bounded size inside the inventory's own folder, those
//! that its git repository tracks, and explicitly allowed folders. An inventory may be untrusted, so a path in it is no
//! permission.

use crate::state::read_regular;
use std::collections::BTreeMap;
use std::io::{self, Error, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

/// The largest file that is read, in bytes: an inventory of 10,000 hosts has one megabyte.
const MOST_FILE: u64 = 8 << 20;
/// All files of one inventory together, in bytes.
const MOST_TOTAL: u64 = 64 << 20;
/// Files and folders in a folder and in all folders below it.
const MOST_FILES: usize = 10_000;
/// Folders inside one another.
const MOST_DEPTH: usize = 16;
/// What git keeps for itself: no part of any inventory.
const GIT: &str = ".git";

/// Where texts come from: the disk, or a git revision.
pub trait Files {
    /// Returns a file's text.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// Returns the files of a folder, with all folders below it, sorted.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;
    /// Returns whether a path is a folder.
    fn is_folder(&self, path: &Path) -> bool;
}

impl<T: Files + ?Sized> Files for std::sync::Arc<T> {
    fn read(&self, path: &Path) -> io::Result<String> {
        (**self).read(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        (**self).list(folder)
    }

    fn is_folder(&self, path: &Path) -> bool {
        (**self).is_folder(path)
    }
}

/// Returns the files below a folder, by their path below it, with the texts of those that are wanted; nothing if there is
/// no such folder.
pub(super) fn texts(
    files: &dyn Files,
    folder: &Path,
    wanted: impl Fn(&Path) -> bool,
) -> Result<BTreeMap<PathBuf, String>, (PathBuf, Error)> {
    if !files.is_folder(folder) {
        return Ok(BTreeMap::new());
    }
    let mut found = BTreeMap::new();
    for path in files.list(folder).map_err(|e| (folder.to_owned(), e))? {
        let below = path.strip_prefix(folder).unwrap_or(&path).to_owned();
        let text = match wanted(&below) {
            true => files.read(&path).map_err(|e| (path.clone(), e))?,
            false => String::new(),
        };
        found.insert(below, text);
    }
    Ok(found)
}

/// Returns whether a path has a component that git keeps for itself.
fn is_git(path: &Path) -> bool {
    path.components().any(|c| c.as_os_str().eq_ignore_ascii_case(GIT))
}

/// The disk, as far as one inventory may see it.
pub struct Disk {
    /// The inventory's own folder, without links.
    own: PathBuf,
    /// The folder of the git repository that it lies in.
    repository: Option<PathBuf>,
    /// Folders allowed by name.
    allowed: Vec<PathBuf>,
    /// How much may still be read, in bytes.
    left: Mutex<u64>,
}

impl Disk {
    /// Returns what the inventory at `path`, a file or a folder, may see, and what is in the `allowed` folders. The error
    /// is that of the folder that cannot be looked at.
    pub fn of(path: &Path, allowed: &[PathBuf]) -> io::Result<Self> {
        let folder = if path.is_dir() { path } else { parent(path) };
        let resolve = |folder: &Path| {
            folder.canonicalize().map_err(|e| Error::new(e.kind(), format!("{}: {e}", folder.display())))
        };
        let own = resolve(folder)?;
        let named = |e: Error| Error::new(e.kind(), format!("--allow-outside {e}"));
        let allowed: Vec<PathBuf> =
            allowed.iter().map(|folder| resolve(folder).map_err(named)).collect::<io::Result<_>>()?;
        // A link that a repository has in the place of a folder is what its authors want to be read.
        let said = tidy(&std::path::absolute(folder)?);
        let top = said.ancestors().skip(1).find(|a| a.join(GIT).exists());
        let top = top.and_then(|top| top.canonicalize().ok());
        if top.is_some_and(|top| !own.starts_with(top)) && !allowed.iter().any(|a| own.starts_with(a)) {
            let why = format!(
                "{}: it is a link that leads out of its git repository, to {}; allow it with --allow-outside DIR",
                folder.display(),
                own.display()
            );
            return Err(Error::new(ErrorKind::PermissionDenied, why));
        }
        let repository = own.ancestors().find(|a| a.join(GIT).exists()).map(Path::to_owned);
        Ok(Self { own, repository, allowed, left: Mutex::new(MOST_TOTAL) })
    }

    /// Returns where a path leads, if that may be seen.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let real = path.canonicalize()?;
        let inside = |folder: &PathBuf| real.strip_prefix(folder).is_ok_and(|below| !is_git(below));
        if inside(&self.own) || self.allowed.iter().any(inside) || self.is_tracked(&real) {
            return Ok(real);
        }
        Err(Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "it leads outside {}{}; allow it with --allow-outside DIR",
                self.own.display(),
                if self.repository.is_some() { " and is not tracked by its git repository" } else { "" }
            ),
        ))
    }

    /// Returns whether the repository that the inventory lies in tracks a file, or files in a folder. Its configuration
    /// may be a stranger's too: nothing of it is run.
    fn is_tracked(&self, real: &Path) -> bool {
        let Some(top) = &self.repository else { return false };
        let Ok(below) = real.strip_prefix(top) else { return false };
        if is_git(below) || below.as_os_str().is_empty() {
            return false;
        }
        git(top)
            .args(["--literal-pathspecs", "ls-files", "-z", "--"])
            .arg(below)
            .output()
            .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
    }

    /// Adds the files below a folder; `entries` counts what was looked at, folders too.
    fn walk(
        &self,
        folder: &Path,
        depth: usize,
        entries: &mut usize,
        found: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let too_much = |what: String| Err(Error::new(ErrorKind::InvalidInput, what));
        if depth > MOST_DEPTH {
            return too_much(format!("{} is nested more than {MOST_DEPTH} folders deep", folder.display()));
        }
        self.resolve(folder)?;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            *entries += 1;
            if *entries > MOST_FILES {
                return too_much(format!("it contains more than {MOST_FILES} files"));
            }
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
                continue;
            }
            if path.is_dir() {
                self.walk(&path, depth + 1, entries, found)?;
            } else {
                found.push(path);
            }
        }
        Ok(())
    }
}

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<String> {
        let real = self.resolve(path)?;
        let mut left = self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bytes = read_regular(&real, MOST_FILE.min(*left))?;
        *left -= bytes.len() as u64;
        String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        self.walk(folder, 0, &mut 0, &mut found)?;
        found.sort();
        Ok(found)
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

/// Returns a git command that works in a folder and runs nothing from the folder's configuration. Files that a repository tracks can
/// look like a repository of their own, with a configuration: without a `.git` that leads to it, git does not use it
/// (`safe.bareRepository`). Whoever has git compare files takes its filters away too.
pub fn git(folder: &Path) -> std::process::Command {
    let mut git = std::process::Command::new("git");
    let redirecting = std::env::vars_os().map(|(name, _)| name);
    for name in redirecting.filter(|name| name.to_string_lossy().starts_with("GIT_")) {
        git.env_remove(name);
    }
    git.env("GIT_NO_LAZY_FETCH", "1").env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
    // Nothing is fetched, and a commit is what its id says.
    git.env("GIT_ALLOW_PROTOCOL", "none").env("GIT_NO_REPLACE_OBJECTS", "1");
    for setting in ["core.fsmonitor=false", "core.hooksPath=/dev/null", "log.showSignature=false"] {
        git.args(["-c", setting]);
    }
    git.args(["-c", "safe.bareRepository=explicit"]).arg("-C").arg(folder);
    git.stdin(std::process::Stdio::null());
    git
}

/// Returns the folder that a file is in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Takes `.` and `..` out of a path without asking the disk.
pub fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() { PathBuf::from(".") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Tree(tempfile::TempDir);

    impl Tree {
        /// Creates `secret` next to the inventory's folder `site`.
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            fs::create_dir_all(dir.path().join("site/roles")).expect("made");
            fs::write(dir.path().join("secret"), "hunter2").expect("written");
            fs::write(dir.path().join("site/own"), "own").expect("written");
            Self(dir)
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn disk(&self, allowed: &[PathBuf]) -> Disk {
            Disk::of(&self.at("site"), allowed).expect("there")
        }

        fn git(&self, arguments: &[&str]) {
            let ok = git(self.0.path()).args(arguments).status().expect("git runs").success();
            assert!(ok, "git {arguments:?}");
        }
    }

    #[test]
    fn only_what_lies_inside_is_read_whatever_the_path_says() {
        let tree = Tree::new();
        symlink("../secret", tree.at("site/link")).expect("a link");
        symlink(tree.at(""), tree.at("site/up")).expect("a link");
        symlink("own", tree.at("site/fine")).expect("a link");
        let disk = tree.disk(&[]);
        assert_eq!(disk.read(&tree.at("site/own")).expect("its own"), "own");
        assert_eq!(disk.read(&tree.at("site/fine")).expect("a link to its own"), "own");
        for path in ["secret", "site/../secret", "site/link", "site/up/secret"] {
            let error = disk.read(&tree.at(path)).expect_err("outside");
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{path}: {error}");
            assert!(error.to_string().contains("--allow-outside"), "{error}");
        }
        assert!(disk.list(&tree.at("site")).is_err(), "a linked folder leads outside");
        assert_eq!(tree.disk(&[tree.at("")]).read(&tree.at("secret")).expect("allowed"), "hunter2");
    }

    #[test]
    fn a_folder_that_is_a_link_out_of_its_repository_is_no_inventory() {
        let tree = Tree::new();
        fs::create_dir(tree.at("repository")).expect("made");
        fs::create_dir(tree.at("repository/site")).expect("made");
        symlink("../site", tree.at("repository/out")).expect("a link");
        symlink("site", tree.at("repository/in")).expect("a link");
        assert!(Disk::of(&tree.at("repository/out"), &[]).is_ok(), "nobody but its user has put it there");
        assert!(git(&tree.at("repository")).args(["init", "-q"]).status().expect("git runs").success());
        let Err(error) = Disk::of(&tree.at("repository/out"), &[]) else { panic!("outside") };
        assert!(error.to_string().contains("--allow-outside"), "{error}");
        assert!(Disk::of(&tree.at("repository/out"), &[tree.at("site")]).is_ok());
        assert!(Disk::of(&tree.at("repository/in"), &[]).is_ok());
        assert!(Disk::of(&tree.at("repository/../site"), &[]).is_ok());
    }

    #[test]
    fn in_a_repository_what_it_tracks_may_be_read_and_never_what_git_keeps() {
        let tree = Tree::new();
        fs::write(tree.at("base.yaml"), "base").expect("written");
        tree.git(&["init", "-q"]);
        tree.git(&["add", "base.yaml"]);
        let disk = tree.disk(&[]);
        assert_eq!(disk.read(&tree.at("base.yaml")).expect("tracked"), "base");
        assert!(disk.read(&tree.at("secret")).is_err(), "not tracked");
        assert!(disk.read(&tree.at(".git/config")).is_err());
        let top = Disk::of(&tree.at("base.yaml"), &[]).expect("there");
        assert!(top.read(&tree.at(".git/config")).is_err(), "not even inside the inventory's own folder");
        // A repository's own configuration names a program; it is not run.
        let ran = tree.at("ran");
        tree.git(&["config", "core.fsmonitor", &format!("touch {}", ran.display())]);
        assert!(disk.read(&tree.at("base.yaml")).is_ok() && !ran.exists());
    }

    #[test]
    fn what_is_no_regular_file_or_too_large_is_refused_at_once() {
        let tree = Tree::new();
        let fifo = tree.at("site/fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a FIFO");
        let large = fs::File::create(tree.at("site/large")).expect("made");
        large.set_len(MOST_FILE + 1).expect("grown");
        let disk = tree.disk(&[]);
        let said = |path: &str| disk.read(&tree.at(path)).expect_err("refused").to_string();
        assert!(said("site/fifo").contains("not a regular file"));
        assert!(said("site/roles").contains("not a regular file"));
        assert!(said("site/large").contains("larger than"));
        assert!(read_regular(Path::new("/dev/zero"), 10).is_err());
    }

    #[test]
    fn links_in_a_circle_end() {
        let tree = Tree::new();
        symlink("..", tree.at("site/roles/again")).expect("a link");
        let error = tree.disk(&[]).list(&tree.at("site")).expect_err("a circle");
        assert!(error.to_string().contains("deep") || error.to_string().contains("link"), "{error}");
    }
}
