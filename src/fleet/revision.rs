//! Revisions of the git repository here as files, without checking anything out. Runs no program but git, with its hooks and monitors
//! off.

use super::error::{Result, cannot, coded};
use crate::inventory::{self, Files};
use crate::plan::Commit;
use crate::state::read_regular;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, PoisonError};

/// The most output of git for one object, in bytes: a file of an inventory, or the list of its files.
const MOST_SAID: u64 = 8 << 20;

/// Runs git with bounded output.
pub(super) fn git(at: &Path, arguments: &[&str]) -> std::io::Result<String> {
    use std::io::Error;
    let mut command = inventory::git(at);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut said = Vec::new();
    let read = child.stdout.take().map_or(Ok(0), |out| out.take(MOST_SAID + 1).read_to_end(&mut said));
    if said.len() as u64 > MOST_SAID {
        child.kill()?;
        child.wait()?;
        return Err(Error::other(format!("larger than the limit of {MOST_SAID} bytes")));
    }
    let ended = child.wait_with_output()?;
    read?;
    if !ended.status.success() {
        return Err(Error::other(String::from_utf8_lossy(&ended.stderr).trim().to_owned()));
    }
    String::from_utf8(said).map_err(Error::other)
}

/// The files of a git revision. Paths are as seen from the folder that the command was given in.
pub(super) struct Revision {
    top: PathBuf,
    prefix: PathBuf,
    commit: String,
    objects: Mutex<Objects>,
}

/// One git process that is asked for objects one after the other: a process for each of 400 files takes seconds.
struct Objects {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Objects {
    fn open(at: &Path) -> std::io::Result<Self> {
        let mut command = inventory::git(at);
        command.args(["cat-file", "--batch"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("git has no standard input"));
        };
        Ok(Self { child, questions, answers: BufReader::new(answers) })
    }

    /// Returns an object's type and content; those that are larger than an inventory's files may be end the process.
    fn ask(&mut self, name: &str) -> std::io::Result<(String, Vec<u8>)> {
        use std::io::Error;
        if name.contains('\n') {
            return Err(Error::other("a file name with a line break"));
        }
        writeln!(self.questions, "{name}")?;
        let mut head = String::new();
        self.answers.by_ref().take(MOST_SAID).read_line(&mut head)?;
        let mut words = head.split_whitespace().rev();
        let (size, kind) = (words.next().and_then(|w| w.parse::<u64>().ok()), words.next());
        let (Some(size), Some(kind)) = (size, kind) else {
            return Err(Error::new(std::io::ErrorKind::NotFound, format!("no {name} in git")));
        };
        if size > MOST_SAID {
            self.child.kill()?;
            return Err(Error::other(format!("larger than the limit of {MOST_SAID} bytes")));
        }
        let mut content = Vec::new();
        self.answers.by_ref().take(size + 1).read_to_end(&mut content)?;
        if content.len() as u64 != size + 1 {
            return Err(Error::new(std::io::ErrorKind::UnexpectedEof, "git ended in the middle of a file"));
        }
        content.pop(); // the line break after it
        Ok((kind.to_owned(), content))
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Revision {
    pub(super) fn open(revision: &str) -> Result<Self> {
        let here = Path::new(".");
        let failed = |why: std::io::Error, hint: &str| {
            let message = format!("cannot read revision `{revision}`: {why}");
            coded("E-GIT", message, hint)
        };
        let places = git(here, &["rev-parse", "--show-toplevel", "--show-prefix"])
            .map_err(|e| failed(e, "Run this inside the git repository of the inventory"))?;
        let mut lines = places.lines();
        let top = PathBuf::from(lines.next().unwrap_or_default());
        let prefix = PathBuf::from(lines.next().unwrap_or_default());
        let commit = git(
            here,
            &["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{revision}^{{commit}}")],
        )
        .map_err(|_| {
            failed(
                std::io::Error::other("no such commit in this repository"),
                "Run `git fetch`; CI checkouts are often shallow (set fetch-depth: 0)",
            )
        })?;
        let objects = Objects::open(here).map_err(|e| failed(e, "Check that git works here"))?;
        Ok(Self { top, prefix, commit: commit.trim().to_owned(), objects: Mutex::new(objects) })
    }

    fn ask(&self, path: &Path) -> std::io::Result<(String, Vec<u8>)> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.ask(&format!("{}:{}", self.commit, self.inside(path)))
    }

    /// Returns a path as the revision has it, without `.` and `..`.
    fn inside(&self, path: &Path) -> String {
        let from_top = path.strip_prefix(&self.top).map_or_else(|_| self.prefix.join(path), Path::to_owned);
        let mut clean = PathBuf::new();
        for part in from_top.components() {
            match part {
                Component::ParentDir => {
                    clean.pop();
                }
                Component::Normal(name) => clean.push(name),
                _ => {}
            }
        }
        clean.display().to_string()
    }
}

impl Files for Revision {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        match self.ask(path)? {
            (kind, content) if kind == "blob" => String::from_utf8(content).map_err(std::io::Error::other),
            (kind, _) => Err(std::io::Error::other(format!("it is a {kind} in git, not a file"))),
        }
    }

    fn list(&self, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
        let inside = self.inside(folder);
        let tree = format!("{}:{inside}", self.commit);
        let list = git(&self.top, &["ls-tree", "-r", "--name-only", "-z", &tree])?;
        let hidden = |p: &Path| p.components().any(|c| c.as_os_str().to_string_lossy().starts_with('.'));
        let mut found: Vec<PathBuf> =
            list.split('\0').filter(|n| !n.is_empty()).map(PathBuf::from).filter(|p| !hidden(p)).collect();
        found.sort();
        Ok(found.into_iter().map(|p| folder.join(p)).collect())
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.ask(path).is_ok_and(|(kind, _)| kind == "tree")
    }
}

/// Returns the parts of `REV:PATH`; `None` for a path, which has its colons behind a `/` at its start or in `./`. What lies in
/// the working tree does not decide: a change under review could put a file with such a name there, to be read in place of the
/// revision.
pub(super) fn revision(said: &str) -> Option<(&str, &str)> {
    said.split_once(':').filter(|_| !said.starts_with(['.', '/']))
}

/// Returns the text of a file, or of `REV:PATH` of the git repository here.
pub(super) fn text_at(said: &str) -> Result<String> {
    let read = match revision(said) {
        Some((revision, path)) => Revision::open(revision)?.read(Path::new(path)),
        None => read_regular(Path::new(said), MOST_SAID)
            .and_then(|b| String::from_utf8(b).map_err(std::io::Error::other)),
    };
    read.map_err(cannot("read", Path::new(said)))
}

/// Returns the last commit that changed a path, if it is in a git repository.
pub(super) fn commit_of(path: &Path) -> Option<Commit> {
    let folder = if path.is_dir() {
        path
    } else {
        path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    };
    let path = std::path::absolute(path).ok()?.display().to_string();
    let last = git(folder, &["log", "-1", "--format=%H%n%ae", "--", &path]).ok()?;
    let (id, author) = last.trim().split_once('\n')?;
    // What cannot be compared is not known to be what was committed.
    let modified = is_modified(folder, &path).unwrap_or(true);
    Some(Commit { id: id.to_owned(), author: author.to_owned(), modified })
}

/// Returns whether a path has changes that are not committed. Filters, through which git would compare files, are programs of the
/// repository's configuration: none is run.
fn is_modified(folder: &Path, path: &str) -> std::io::Result<bool> {
    /// Settings of filters that are taken away one by one.
    const MOST_FILTERS: usize = 200;
    let names = git(folder, &["config", "--null", "--name-only", "--list"])?;
    let filters: BTreeSet<&str> = names.split('\0').filter(|name| name.starts_with("filter.")).collect();
    // What is before the first `=` would be taken for the name.
    if filters.len() > MOST_FILTERS || filters.iter().any(|name| name.contains('=')) {
        return Err(std::io::Error::other("filters that cannot be taken away"));
    }
    let without = filters.iter().map(|name| match name.ends_with(".required") {
        true => format!("{name}=false"),
        false => format!("{name}="),
    });
    let without: Vec<String> = without.collect();
    let mut arguments: Vec<&str> = without.iter().flat_map(|setting| ["-c", setting]).collect();
    arguments.extend(["status", "--porcelain", "--ignore-submodules=all", "--", path]);
    Ok(!git(folder, &arguments)?.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::commit_of;
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    fn run(folder: &Path, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder).args(["-c", "user.name=a", "-c", "user.email=a@example.org"]);
        assert!(git.args(arguments).status().expect("git runs").success(), "git {arguments:?}");
    }

    /// A configuration in which all that git could run for a commit's facts leaves a file.
    fn hostile(ran: &Path) -> String {
        let program = ran.with_file_name("program");
        fs::write(&program, format!("#!/bin/sh\ntouch {}\ncat\n", ran.display())).expect("written");
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
        let program = program.display();
        format!(
            "[filter \"x\"]\n\tclean = {program}\n\trequired = true\n[filter \"y\"]\n\tprocess = {program}\n\
             [log]\n\tshowSignature = true\n[gpg]\n\tprogram = {program}\n"
        )
    }

    #[test]
    fn no_program_of_a_repositorys_configuration_is_run() {
        let place = tempfile::tempdir().expect("a folder");
        let (site, ran) = (place.path().join("site"), place.path().join("ran"));
        fs::create_dir(&site).expect("made");
        run(&site, &["init", "-q"]);
        fs::write(site.join("a.yaml"), "a").expect("written");
        fs::write(site.join("b.yaml"), "b").expect("written");
        run(&site, &["add", "."]);
        run(&site, &["commit", "-q", "-m", "first"]);
        let config = fs::read_to_string(site.join(".git/config")).expect("there") + &hostile(&ran);
        fs::write(site.join(".git/config"), config).expect("written");
        fs::write(site.join(".git/info/attributes"), "a.yaml filter=x\nb.yaml filter=y\n").expect("written");
        // Of the same size and with another time: only the content tells.
        let again = |text: &str| {
            fs::remove_file(site.join("a.yaml")).expect("there");
            fs::write(site.join("a.yaml"), text).expect("written");
            fs::File::open(site.join("a.yaml"))
                .expect("there")
                .set_modified(std::time::UNIX_EPOCH)
                .expect("set");
            fs::File::open(site.join("b.yaml"))
                .expect("there")
                .set_modified(std::time::UNIX_EPOCH)
                .expect("set");
            commit_of(&site).expect("a commit").modified
        };
        assert!(!again("a") && again("b"), "it is seen all the same");
        assert!(!ran.exists(), "a program was run");
        run(&site, &["status"]);
        assert!(ran.exists(), "the attack works where nothing is taken away");
    }

    #[test]
    fn files_that_look_like_a_repository_are_none() {
        let place = tempfile::tempdir().expect("a folder");
        let (top, ran) = (place.path().join("top"), place.path().join("ran"));
        let site = top.join("site");
        fs::create_dir_all(&site).expect("made");
        run(&top, &["init", "-q"]);
        fs::write(site.join("a.yaml"), "a").expect("written");
        // A change under review adds the files of a repository, with a commit that its author likes.
        run(&site, &["init", "-q", "--bare", "."]);
        let config = format!(
            "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = .\n{}",
            hostile(&ran)
        );
        fs::write(site.join("config"), config).expect("written");
        run(&site, &["--git-dir=.", "--work-tree=.", "add", "a.yaml"]);
        run(&site, &["--git-dir=.", "--work-tree=.", "commit", "-q", "-m", "inner"]);
        run(&top, &["add", "."]);
        run(&top, &["commit", "-q", "-m", "outer"]);
        fs::write(site.join(".gitattributes"), "a.yaml filter=x\n").expect("written");
        fs::File::open(site.join("a.yaml")).expect("there").set_modified(std::time::UNIX_EPOCH).expect("set");
        assert!(commit_of(&site).is_none(), "of what looks like one, nothing is taken");
        assert!(!ran.exists(), "a program was run");
        run(&site, &["status"]);
        assert!(ran.exists(), "the attack works where git takes it for one");
    }
}
