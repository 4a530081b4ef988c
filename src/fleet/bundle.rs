//! Bundles: everything that the lock file names, and images, in one folder, and a site that fetches from such a folder alone.

use super::error::{Result, coded};
use super::lab::{Running, attach_to};
use super::load::{Loaded, Source};
use crate::artifact::{
    BundleFile, BundleMirror, Collected, Collecting, Defect, FileKind, Image, Index, Lock, Locked,
    MirrorPlace, Registries, RegistryLogin, image_key,
};
use crate::event::Events;
use crate::inventory::Secrets;
use crate::serving::{self, ServingInput};
use crate::state::Spec;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A bundle that is to be filled.
pub struct Bundling {
    collecting: Collecting,
    source: Source,
    lab: Option<Running>,
    mirror: Option<BundleMirror>,
    registries: Option<Registries>,
}

impl Loaded {
    /// Compares the bundle in a folder, made if it is not there, with the lock file; of all kinds unless some are named. In a
    /// lab, with what the lab's mirror serves.
    pub async fn bundle(
        mut self,
        to: &Path,
        only: &[FileKind],
        lab: bool,
        events: &Events,
    ) -> Result<Bundling> {
        let lab = attach_to(&mut self, lab, events).await?;
        let path = lab.as_ref().map_or_else(|| self.lock_path(), |lab| lab.lock.clone());
        let lock = self.read_lock(&path, lab.as_ref().map(|_| self.source.path.as_path()))?;
        let mirror = match &self.source.mirror {
            Some(place) => Some(BundleMirror::open(place).await?),
            None => None,
        };
        // Those of a lab are simulated.
        let is_wanted = lab.is_none() && (only.is_empty() || only.contains(&FileKind::Image));
        let names = if is_wanted { images(&self)? } else { BTreeSet::new() };
        let (mut found, mut registries) = (Default::default(), None);
        match &mirror {
            _ if names.is_empty() => {}
            Some(mirror) => found = mirror.images(names.iter().map(String::as_str)),
            None => {
                let all = self.registries(&names).await?;
                found = read(&all, &names, events).await;
                registries = Some(all);
            }
        }
        let collecting = Collecting::begin(to, &lock, found, only)?;
        Ok(Bundling { collecting, source: self.source, lab, mirror, registries })
    }

    /// Returns the registries of images, with the logins that the inventory has for them.
    async fn registries(&self, images: &BTreeSet<String>) -> Result<Registries> {
        let keys: Vec<String> = images.iter().map(|image| image_key(image).0).collect();
        let secrets = Secrets::of_site(&self.inventory);
        let mut logins = BTreeMap::new();
        for (host, registry) in &self.inventory.registries {
            if !keys.iter().any(|key| key.strip_prefix(host).is_some_and(|rest| rest.starts_with('/'))) {
                continue;
            }
            let credentials = match &registry.credentials {
                Some(name) => Some(secrets.resolve(name).await?),
                None => None,
            };
            logins.insert(host.clone(), RegistryLogin { mirror: registry.mirror.clone(), credentials });
        }
        Registries::new(logins)
            .map_err(|why| coded("E-BUNDLE-FETCH", why, "Check the TLS settings of this machine"))
    }

    /// Opens the bundle that is asked in place of every other source, and refuses it where it lacks anything: before any host is
    /// changed.
    pub(super) async fn open_mirror(&self, place: &MirrorPlace, lock: &Lock) -> Result<BundleMirror> {
        let mirror = BundleMirror::open(place).await?;
        let wanted = self.wanted();
        let wanted = wanted.iter().filter_map(|want| Some((want.name.as_str(), lock.get(&want.name)?)));
        let wanted: Vec<(&str, &Locked)> = wanted.collect();
        mirror.check(&wanted).await?;
        Ok(mirror)
    }
}

impl Bundling {
    /// Returns the files that it is to have.
    pub fn files(&self) -> &[BundleFile] {
        self.collecting.files()
    }

    /// Returns their size, in bytes.
    pub fn bytes(&self) -> u64 {
        self.collecting.bytes()
    }

    /// Returns how many bytes of them are still to be fetched.
    pub fn left(&self) -> u64 {
        self.collecting.left()
    }

    /// Fetches what is missing, from the source's mirror if it has one. What was fetched stays, whatever else fails.
    pub async fn run(self, events: &Events) -> Result<Collected> {
        let Self { collecting, source, lab, mirror, registries } = self;
        let cache = source.state.artifacts()?;
        let collected = collecting.run(&cache, mirror.as_ref(), registries.as_ref(), events).await;
        lab.map_or(Ok(()), Running::end)?;
        Ok(collected?)
    }
}

/// So many images are asked about at once.
const AT_ONCE: usize = 4;

/// Reads the manifests of images; those that could not be read come second.
async fn read(
    registries: &Registries,
    names: &BTreeSet<String>,
    events: &Events,
) -> (Vec<Image>, Vec<Defect>) {
    let each = names.iter().map(|name| {
        events.note(format!("reading the manifests of {name}"));
        registries.image(name)
    });
    let all: Vec<_> = futures::stream::iter(each).buffered(AT_ONCE).collect().await;
    let (mut images, mut unread) = (Vec::new(), Vec::new());
    for image in all {
        match image {
            Ok(image) => images.push(image),
            Err(defect) => unread.push(defect),
        }
    }
    (images, unread)
}

/// Returns the container images of the objects that the inventory wants.
fn images(loaded: &Loaded) -> Result<BTreeSet<String>> {
    let (inventory, catalog) = (&loaded.inventory, &loaded.catalog);
    let input = ServingInput { inventory, catalog, crds: Vec::new(), tokens: BTreeMap::new() };
    let mut found = BTreeSet::new();
    for resource in serving::desired(&input)? {
        if let Spec::Object(object) = &resource.spec {
            named_in(&object.manifest, &mut found);
        }
    }
    Ok(found)
}

/// Adds the values of `image` anywhere in a manifest.
fn named_in(value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(image) if name == "image" => drop(found.insert(image.to_owned())),
                    _ => named_in(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| named_in(value, found)),
        _ => {}
    }
}

/// Compares every file of a bundle with its sum. Returns its index, and the files that the index does not name.
pub async fn verify_bundle(
    source: &Source,
    place: &MirrorPlace,
    events: &Events,
) -> Result<(Index, Vec<String>)> {
    let mirror = BundleMirror::open(place).await?;
    let unnamed = mirror.verify(&source.state.artifacts()?, events).await?;
    Ok((mirror.index().clone(), unnamed))
}
