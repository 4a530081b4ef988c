//! Approvals of saved plans: people sign the digest of a plan's file with their SSH keys, as `ssh-keygen -Y` does it, and a run
//! counts people. Owns the files beside a plan; what a plan is, is `plan/`'s.

use super::error::{Result, cannot, coded, failed};
use super::revision::text_at;
use crate::plan::Commit;
use crate::state::{plain_line, put, read_regular};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Signatures are made for this and nothing else (`ssh-keygen(1)`, `-n`): what a key signed elsewhere approves no plan.
const NAMESPACE: &str = "plan-approval@provision";
/// The largest approval, and the largest file of approvers, in bytes.
const MOST: u64 = 1 << 20;
/// Approvals of one plan that are looked at.
const MOST_APPROVALS: usize = 200;
/// The longest that an approval may last.
pub const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

/// What is signed.
#[derive(Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Statement {
    /// sha256 of the plan's file, hex.
    plan: String,
    /// The inventory's name, for whoever reads it.
    inventory: String,
    /// When, seconds since 1970.
    approved_s: i64,
    /// Until when it holds, seconds since 1970.
    expires_s: i64,
}

/// An approval as it lies beside a plan.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The signed text: a [`Statement`] as JSON.
    statement: String,
    /// The signature, as `ssh-keygen -Y sign` makes it.
    signature: String,
}

/// A plan whose approvals are made or counted.
pub struct Approvable<'a> {
    /// Its file.
    pub path: &'a Path,
    /// sha256 of its file, hex.
    pub digest: &'a str,
    /// The inventory's name.
    pub inventory: &'a str,
    /// The commit that it was made from, if it was made in a git repository.
    pub commit: Option<&'a Commit>,
}

/// Who approved a plan, and what does not count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Approvals {
    /// People, as the file of approvers names them.
    pub people: BTreeSet<String>,
    /// Approvals that do not count, and why; a phrase each.
    pub refused: Vec<String>,
}

/// Returns the folder of a plan's approvals.
fn folder(plan: &Path) -> PathBuf {
    let mut name = plan.as_os_str().to_owned();
    name.push(".approvals");
    PathBuf::from(name)
}

/// Runs `ssh-keygen -Y` with a text on its standard input.
pub(super) fn ssh_keygen(arguments: &[&str], files: &[(&str, &Path)], text: &str) -> Result<Output> {
    let mut command = Command::new("ssh-keygen");
    command.arg("-Y").args(arguments);
    for (option, file) in files {
        command.arg(option).arg(file);
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            coded("E-APPROVAL", "ssh-keygen is not installed", "Install OpenSSH's client, 8.9 or newer")
        }
        _ => failed("cannot start ssh-keygen")(error),
    })?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(failed("cannot wait for ssh-keygen"))?;
    // One that has refused its arguments reads nothing.
    if output.status.success() {
        written.map_err(failed("cannot write to ssh-keygen"))?;
    }
    Ok(output)
}

/// Signs a plan with a private key, or with the agent's for a public one, for a time. Returns the file that it writes.
pub fn approve(plan: &Approvable<'_>, key: &Path, lasts: Duration) -> Result<PathBuf> {
    let now = jiff::Timestamp::now().as_second();
    let lasts_s = i64::try_from(lasts.min(LONGEST).as_secs()).unwrap_or_default();
    let statement = Statement {
        plan: plan.digest.to_owned(),
        inventory: plan.inventory.to_owned(),
        approved_s: now,
        expires_s: now + lasts_s,
    };
    let statement =
        serde_json::to_string(&statement).map_err(|e| failed("cannot write the approval")(e.into()))?;
    let signed = ssh_keygen(&["sign", "-q", "-n", NAMESPACE], &[("-f", key)], &statement)?;
    if !signed.status.success() {
        let said = String::from_utf8_lossy(&signed.stderr);
        let message = format!("cannot sign with {}: {}", key.display(), plain_line(said.trim()));
        return Err(coded(
            "E-APPROVAL",
            message,
            "Specify a private key, or a public key whose private key is in the agent, with --key",
        ));
    }
    let signature = String::from_utf8_lossy(&signed.stdout).into_owned();
    let folder = folder(plan.path);
    std::fs::create_dir_all(&folder).map_err(cannot("create", &folder))?;
    let path = folder.join(format!("{:016x}.json", rand::random::<u64>()));
    let text = serde_json::to_vec_pretty(&File { statement, signature });
    let text = text.map_err(|e| failed("cannot write the approval")(e.into()))?;
    let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(cannot("write", &path))?;
    file.write_all(&text).map_err(cannot("write", &path))?;
    put(file, &path).map_err(cannot("write", &path))?;
    Ok(path)
}

/// Counts who approved a plan. `approvers` is a file as `ssh-keygen(1)` describes allowed signers, or `REV:PATH` of the git
/// repository here: on a change under review the revision that people trust, not the change's own. Who wrote the commit that
/// the plan was made from does not count, and neither does a line that names no single person.
pub fn approvals(plan: &Approvable<'_>, approvers: &str) -> Result<Approvals> {
    let scratch = tempfile::tempdir().map_err(failed("cannot create a temporary folder"))?;
    let allowed = scratch.path().join("approvers");
    std::fs::write(&allowed, text_at(approvers)?).map_err(cannot("write", &allowed))?;
    let mut found = Approvals::default();
    if plan.commit.is_some_and(|commit| commit.modified) {
        let why = "no approval counts: the plan was made from uncommitted changes, which have no author";
        found.refused.push(why.to_owned());
        return Ok(found);
    }
    let author = plan.commit.map(|commit| commit.author.to_lowercase());
    for path in files(&folder(plan.path))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match check(&path, plan, &allowed, scratch.path()) {
            Ok(person) if author.as_deref() == Some(person.as_str()) => {
                found
                    .refused
                    .push(format!("approval {name}: {person} wrote the commit that the plan was made from"));
            }
            Ok(person) => drop(found.people.insert(person)),
            Err(why) => found.refused.push(plain_line(&format!("approval {name}: {why}")).into_owned()),
        }
    }
    Ok(found)
}

/// Returns the files of a folder of approvals, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot("read", folder)(error)),
    };
    let mut files: Vec<PathBuf> = entries
        .take(MOST_APPROVALS)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    Ok(files)
}

/// Returns whether a principal of a file of allowed signers is one person, and no pattern.
pub(super) fn names_one_person(principal: &str) -> bool {
    !principal.is_empty() && !principal.contains([',', '*', '?', '!', ' '])
}

/// Returns whose approval a file is; the error is why it is none.
fn check(
    path: &Path,
    plan: &Approvable<'_>,
    allowed: &Path,
    scratch: &Path,
) -> std::result::Result<String, String> {
    let bytes = read_regular(path, MOST).map_err(|error| error.to_string())?;
    let File { statement, signature } =
        serde_json::from_slice(&bytes).map_err(|error| format!("not an approval: {error}"))?;
    let signature_file = scratch.join("signature");
    std::fs::write(&signature_file, signature).map_err(|error| error.to_string())?;
    let run = |arguments: &[&str], text: &str| {
        let output = ssh_keygen(arguments, &[("-f", allowed), ("-s", &signature_file)], text);
        output.map_err(|error| error.to_string())
    };
    let known = run(&["find-principals"], "")?;
    let said = String::from_utf8_lossy(&known.stdout).into_owned();
    let person = said.lines().next().filter(|_| known.status.success());
    let person = person.ok_or("its key is not in the approvers file")?.trim().to_owned();
    if !names_one_person(&person) {
        return Err(format!("the approvers file does not name exactly one person for its key: {person}"));
    }
    if !run(&["verify", "-n", NAMESPACE, "-I", &person], &statement)?.status.success() {
        return Err("its signature does not match".to_owned());
    }
    // Only now is it known who says so.
    let said: Statement =
        serde_json::from_str(&statement).map_err(|error| format!("not an approval: {error}"))?;
    let now = jiff::Timestamp::now().as_second();
    if said.plan != plan.digest {
        return Err(format!(
            "{person} approved another plan ({})",
            said.plan.get(..12).unwrap_or(&said.plan)
        ));
    }
    if now >= said.expires_s {
        return Err(format!("the approval of {person} has expired"));
    }
    if said.expires_s.saturating_sub(said.approved_s) > LONGEST.as_secs() as i64 {
        return Err(format!("the approval of {person} would last more than 31 days"));
    }
    Ok(person.to_lowercase())
}

/// Returns the key that a person most likely signs with: the first of those that `ssh` would try.
pub fn usual_key(home: &Path) -> Option<PathBuf> {
    let keys = ["id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk"];
    keys.into_iter().map(|name| home.join(".ssh").join(name)).find(|path| path.is_file())
}
