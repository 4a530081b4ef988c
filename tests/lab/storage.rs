//! Disks of their own, with the real mkfs and blkid on files that stand in for disks; mounting is the lab's systemd.

use crate::kit::Kit;
use provision::executor::Leaving;
use provision::plan::steps_of;
use provision::state::{Filesystem, Hazard, Mount, Resource, Spec, StepOutputs, Target};

const DISK: &str = "/dev/disk/by-id/lab-disk";
const UUID: &str = "0f9c2c1e-7a51-8d33-9b1e-2f6d8f0a1b2c";

fn wanted(erase: Option<&str>) -> Vec<Resource> {
    let filesystem = Filesystem {
        device: DISK.into(),
        kind: "ext4".into(),
        uuid: UUID.into(),
        erase: erase.map(str::to_owned),
    };
    let mount = Mount {
        path: "/data/my-models".into(),
        what: format!("/dev/disk/by-uuid/{UUID}"),
        kind: "ext4".into(),
        options: "defaults,nofail".into(),
    };
    vec![Resource::new("test", Spec::Filesystem(filesystem)), Resource::new("test", Spec::Mount(mount))]
}

fn disk(kit: &Kit) -> std::path::PathBuf {
    let path = kit.file("h", DISK);
    crate::kit::write(&path, "");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("made");
    file.set_len(16 << 20).expect("sparse");
    path
}

fn carries(path: &std::path::Path) -> String {
    let output =
        std::process::Command::new("blkid").args(["-p", "-o", "export"]).arg(path).output().expect("blkid");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_becomes_a_mounted_filesystem_once() {
    let kit = Kit::up(&["h"], |_| {}).await;
    let path = disk(&kit);
    let target = kit.target("h", wanted(None));
    let (steps, _) = steps_of(&target.observe().await.expect("observed"));
    assert_eq!(steps.len(), 2, "{steps:#?}");
    target.enact(&steps, &StepOutputs::new()).await.expect("made and mounted");
    assert!(carries(&path).contains(&format!("UUID={UUID}")), "{}", carries(&path));
    let unit = kit.read("h", "/etc/systemd/system/data-my\\x2dmodels.mount");
    assert!(unit.contains(&format!("What=/dev/disk/by-uuid/{UUID}\nWhere=/data/my-models\n")), "{unit}");
    let again = target.observe().await.expect("observed");
    assert_eq!(steps_of(&again).0, [], "the second plan is empty");
    // Given up, the mount goes and what is on the disk stays.
    let fewer = kit.target("h", Vec::new());
    let (removal, _) = steps_of(&fewer.observe().await.expect("observed"));
    fewer.enact(&removal, &StepOutputs::new()).await.expect("removed");
    assert_eq!(kit.read("h", "/etc/systemd/system/data-my\\x2dmodels.mount"), "");
    assert!(carries(&path).contains("TYPE=ext4"));
    kit.lab.down().await;
}

/// A host that leaves keeps the data on its disks, unless that was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_takes_the_mount_away_and_wipes_only_on_request() {
    let kit = Kit::up(&["h"], |_| {}).await;
    let path = disk(&kit);
    for wipe_data in [false, true] {
        let target = kit.target("h", wanted(None));
        let (steps, _) = steps_of(&target.observe().await.expect("observed"));
        target.enact(&steps, &StepOutputs::new()).await.expect("made and mounted");
        assert!(carries(&path).contains(&format!("UUID={UUID}")));
        let leaving = kit.target("h", Vec::new()).leaving(Leaving::Reset { wipe_data });
        let (removal, _) = steps_of(&leaving.observe().await.expect("observed"));
        let lost = removal.iter().any(|s| s.hazards.contains(&Hazard::DataLoss(DISK.into())));
        assert_eq!(lost, wipe_data, "the plan says so: {removal:#?}");
        leaving.enact(&removal, &StepOutputs::new()).await.expect("removed");
        assert_eq!(steps_of(&leaving.observe().await.expect("observed")).0, []);
        assert_eq!(carries(&path).contains("TYPE=ext4"), !wipe_data, "{}", carries(&path));
        assert_eq!(kit.read("h", "/etc/systemd/system/data-my\\x2dmodels.mount"), "");
        assert!(kit.file("h", "/var/lib/provision").exists(), "until the run ends");
        leaving.finish().await.expect("ended");
        assert!(!kit.file("h", "/var/lib/provision").exists());
        if !wipe_data {
            // An empty one for the second round.
            std::fs::remove_file(&path).expect("removed");
            disk(&kit);
        }
    }
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_carries_something_is_refused_unless_that_is_listed() {
    let kit = Kit::up(&["h"], |_| {}).await;
    let path = disk(&kit);
    let made =
        std::process::Command::new("mkfs.ext4").args(["-q", "-F", "-L", "payroll"]).arg(&path).status();
    assert!(made.is_ok_and(|s| s.success()));
    let before = carries(&path);
    let refused = kit.target("h", wanted(None)).observe().await.expect_err("refused");
    assert_eq!(refused.code, "E-DISK");
    assert!(refused.message.contains("contains ext4 labelled payroll; it is not overwritten"), "{refused}");
    assert!(refused.hint.as_deref().is_some_and(|h| h.contains("blkid -p") && h.contains("erase: ext4")));
    assert_eq!(
        kit.target("h", wanted(Some("gpt"))).observe().await.expect_err("another is listed").code,
        "E-DISK"
    );
    assert_eq!(carries(&path), before, "nothing was touched");

    let target = kit.target("h", wanted(Some("ext4")));
    let (steps, _) = steps_of(&target.observe().await.expect("observed"));
    // Somebody puts something else there between plan and apply.
    std::fs::write(&path, vec![0u8; 16 << 20]).expect("zeroed");
    let swap = std::process::Command::new("mkswap").arg(&path).output();
    if swap.is_ok_and(|o| o.status.success()) {
        let failure = target.enact(&steps, &StepOutputs::new()).await.expect_err("looked at once more");
        assert!(
            failure.tail.iter().any(|l| l.contains("contains swap; it is not overwritten")),
            "{failure:?}"
        );
    }
    let file = std::fs::File::create(&path).expect("emptied");
    file.set_len(16 << 20).expect("sparse");
    assert!(
        std::process::Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(&path)
            .status()
            .is_ok_and(|s| s.success())
    );
    let (steps, _) = steps_of(&target.observe().await.expect("observed"));
    target.enact(&steps, &StepOutputs::new()).await.expect("erased, as listed");
    assert_eq!(steps_of(&target.observe().await.expect("observed")).0, []);
    kit.lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_not_there_and_a_folder_in_use_are_said() {
    let kit = Kit::up(&["h"], |_| {}).await;
    let refused = kit.target("h", wanted(None)).observe().await.expect_err("refused");
    assert!(refused.code == "E-DISK" && refused.message.contains("does not exist"), "{refused}");
    disk(&kit);
    std::fs::create_dir_all(kit.file("h", "/data/my-models")).expect("made");
    crate::kit::write(kit.file("h", "/data/my-models/weights"), "x");
    let target = kit.target("h", wanted(None));
    let (steps, _) = steps_of(&target.observe().await.expect("observed"));
    let failure = target.enact(&steps, &StepOutputs::new()).await.expect_err("it would hide them");
    assert!(failure.tail.iter().any(|l| l.contains("holds files that the mount would hide")), "{failure:?}");
    kit.lab.down().await;
}
