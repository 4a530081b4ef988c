//! `bundle`: what the lock file names, in one folder.

use super::args::{At, Global, Output};
use super::errors::usage;
use super::exit;
use super::session::{load_from, source, watch_events};
use crate::fleet::{BundleFile, FileKind, MirrorPlace, verify_bundle};
use crate::report::{LAB, count};
use crate::state::plain_line;
use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};

/// Collect all downloads in one folder, for sites without internet access
///
/// Fetches what provision.lock names (k0s, signing keys, custom resource definitions, installers) and the images of engines, router
/// and device plugins into a folder, and compares every byte with its sha256. `--mirror` of other commands then uses the folder, or a
/// web server that serves it, in place of every other source. A folder that has a bundle is completed; what it has of other versions
/// stays. Packages of distributions and vendors are not part of it: use package mirrors.
#[derive(Args)]
#[command(after_help = "Examples:
  provision bundle -i site.yaml --to /media/usb/ams      where the internet is reachable
  provision bundle --verify /media/usb/ams               compares every file with its sum
  provision apply -i site.yaml --mirror /media/usb/ams   at the site: contacts no other source")]
pub(super) struct Bundle {
    #[command(flatten)]
    at: At,
    /// The folder to write: new, empty, or with a bundle
    #[arg(long, value_name = "DIR", required_unless_present = "verify")]
    to: Option<PathBuf>,
    /// Collect only files of these kinds
    #[arg(long, value_name = "KIND", value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Collect what simulated hosts download
    #[arg(long)]
    lab: bool,
    /// Verify a bundle, a folder or a URL, instead of writing one
    #[arg(long, value_name = "DIR|URL", conflicts_with_all = ["to", "only", "lab"])]
    verify: Option<MirrorPlace>,
}

/// What a bundle does not have.
const NOT_INCLUDED: [&str; 2] =
    ["packages of distributions and vendors", "images of k0s itself (`k0s airgap list-images`)"];

/// A kind of files.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Kind {
    /// Programs: k0s
    Binary,
    /// Custom resource definitions of the router
    Crd,
    /// Signing keys of package repositories
    Key,
    /// Installers
    Archive,
    /// Container images of engines, router and device plugins
    Image,
}

impl Kind {
    fn file_kind(self) -> FileKind {
        match self {
            Self::Binary => FileKind::Binary,
            Self::Crd => FileKind::Crd,
            Self::Key => FileKind::Key,
            Self::Archive => FileKind::Archive,
            Self::Image => FileKind::Image,
        }
    }
}

fn json(files: &[BundleFile]) -> serde_json::Value {
    serde_json::to_value(files).unwrap_or_default()
}

fn bytes(files: &[BundleFile]) -> u64 {
    files.iter().map(|file| file.size).sum()
}

impl Bundle {
    /// Writes a bundle, or verifies one.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let source = source(&self.at.path(), global);
        if let Some(place) = &self.verify {
            return verify(&source, place, global).await;
        }
        let Some(to) = self.to.clone() else {
            return Err(usage("no folder is given", "Name it with --to DIR"));
        };
        let loaded = load_from(&source)?;
        let is_json = global.output == Output::Json;
        let (events, showing) = watch_events(global, !is_json, None);
        let only: Vec<FileKind> = self.only.iter().map(|kind| kind.file_kind()).collect();
        let bundling = loaded.bundle(&to, &only, self.lab, &events).await;
        let bundling = match bundling {
            Ok(bundling) => bundling,
            Err(error) => {
                drop(events);
                showing.end().await;
                return Err(error.into());
            }
        };
        if !global.quiet {
            if self.lab {
                eprintln!("{LAB}");
            }
            let (files, all, left) = (bundling.files().len(), bundling.bytes(), bundling.left());
            eprintln!("{}: {}, {} to fetch", count(files, "file"), HumanBytes(all), HumanBytes(left));
        }
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let collected = tokio::select! {
            collected = bundling.run(&events) => Some(collected),
            _ = int.recv() => None,
            _ = term.recv() => None,
        };
        drop(events);
        showing.end().await;
        let Some(collected) = collected else {
            eprintln!("Stopped; the same command completes the bundle");
            return Ok(exit::INTERRUPTED);
        };
        let collected = collected?;
        let all = &collected.index.files;
        if is_json {
            let value = serde_json::json!({"folder": to, "bytes": bytes(all), "files": json(all),
                "fetched": json(&collected.fetched), "notIncluded": NOT_INCLUDED});
            println!("{value:#}");
            return Ok(exit::DONE);
        }
        if !global.quiet {
            summary(&to, all, &collected.fetched, collected.others);
            eprintln!("Not included: {}", NOT_INCLUDED.join(", "));
            eprintln!("See docs/how-to/air-gapped.md for these, and for what to do with images");
        }
        println!("{}", to.display());
        Ok(exit::DONE)
    }
}

/// Says what a bundle has.
fn summary(to: &Path, all: &[BundleFile], fetched: &[BundleFile], others: usize) {
    let got = match fetched.len() {
        0 => "nothing was missing".to_owned(),
        n => format!("{}, {} fetched", count(n, "file"), HumanBytes(bytes(fetched))),
    };
    eprintln!("{} has {}, {}: {got}", to.display(), count(all.len(), "file"), HumanBytes(bytes(all)));
    if others > 0 {
        eprintln!("kept {} of other versions, kinds or inventories", count(others, "file"));
    }
}

/// Compares every file of a bundle with its sum.
async fn verify(source: &crate::fleet::Source, place: &MirrorPlace, global: &Global) -> anyhow::Result<u8> {
    let is_json = global.output == Output::Json;
    let (events, showing) = watch_events(global, !is_json, None);
    let verified = verify_bundle(source, place, &events).await;
    drop(events);
    showing.end().await;
    let (index, unnamed) = verified?;
    for path in &unnamed {
        eprintln!("warning: {} is not part of the bundle", plain_line(path));
    }
    let all = &index.files;
    match is_json {
        true => {
            println!("{:#}", serde_json::json!({"bytes": bytes(all), "files": json(all), "unnamed": unnamed}))
        }
        false => {
            screen!("{place}: {}, {}, all as listed\n", count(all.len(), "file"), HumanBytes(bytes(all)))
        }
    }
    Ok(exit::DONE)
}
