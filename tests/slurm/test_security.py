"""What a submission gives away, and what it trusts."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from slurm.client import Client, SlurmError, clean_environment
from slurm.graph import Job
from slurm.private import PrivacyError, private_folder, read_record, write_record
from slurm.redaction import Redactor
from slurm.submit import cancel
from tests.slurm.conftest import Bench


def test_every_file_of_a_submission_is_its_users_alone(bench: Bench) -> None:
    bench.put(bench.job("job", 1))
    assert bench.states() == {"job": "done"}
    paths = [bench.submissions.folder, *bench.submissions.folder.rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths if path.parent != bench.submissions.logs}
    wanted = {path: 0o700 if path.is_dir() else 0o600 for path in modes}
    assert modes == wanted
    assert not [path for path in paths if path.suffix in (".pkl", ".pickle")]


def test_a_job_sees_what_is_on_the_list_and_no_secret_reaches_a_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the environment stays behind; a token that is passed on by name works, and is not in the log."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    monkeypatch.setenv("MY_PASSWORD", "not for the cluster")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "10000000")
    home = bench.home("env")
    passing = bench.with_settings(passed=("WANDB_API_KEY",), environment={"A": 'it\'s $HOME; `x` "q", b'})
    script = "env | sort; [ ${#WANDB_API_KEY} = 20 ] && echo passed"
    passing.put(Job("env", ("/bin/sh", "-c", script), home / "log.txt"))
    assert passing.states() == {"env": "done"}
    said = passing.log("env").splitlines()
    assert "passed" in said
    assert "WANDB_API_KEY=[WANDB_API_KEY]" in said
    assert 'A=it\'s $HOME; `x` "q", b' in said
    assert not [line for line in said if line.startswith("MY_PASSWORD") or "RESTART_COUNT=3" in line]
    text = "".join(path.read_text() for path in bench.submissions.folder.rglob("*") if path.is_file())
    assert "0123456789abcdef0123" not in text
    assert "not for the cluster" not in text


@pytest.mark.parametrize("name", ["$(touch hole)", "; touch hole;", "it's", 'a"b', "a\nb", "--wrap=touch hole"])
def test_no_text_of_a_users_is_a_command(bench: Bench, name: str) -> None:
    """As a job's name and kind, as the study's, in an option, and in the job's own words."""
    job = Job(name, ("printf", "[%s]", name), bench.home("quoted") / "log.txt", kind=name)
    from slurm.resources import Request, Settings
    from slurm.script import script
    from slurm.submissions import Submission

    value = name.replace("\n", " ")
    request = Request(minutes=1, options=(("constraint", value),))
    made = Submission("0001-x", name, {0: job})
    text = script(made, request, Settings(environment={"A": value}), bench.submissions, name)
    import shlex

    lines = [line for line in text.splitlines() if line.startswith("#SBATCH --constraint=")]
    assert shlex.split(lines[0].removeprefix("#SBATCH ")) == [f"--constraint={value}"]
    assert [line for line in text.splitlines() if line.startswith(("touch", "; touch"))] == []
    assert [shlex.split(line) for line in text.splitlines() if line.startswith("export A=")] == [
        ["export", f"A={value}"]
    ]


def test_a_record_that_others_may_write_is_not_obeyed(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "ours")
    write_record(folder / "record.json", {"a": 1})
    assert read_record(folder / "record.json") == {"a": 1}
    (folder / "record.json").chmod(0o660)
    with pytest.raises(PrivacyError, match="chmod go-rwx it"):
        read_record(folder / "record.json")
    (folder / "link.json").symlink_to(folder / "record.json")
    with pytest.raises(OSError, match="symbolic link"):
        read_record(folder / "link.json")
    folder.chmod(0o770)
    with pytest.raises(PrivacyError, match="open to others"):
        private_folder(folder)
    if os.getuid() == 0:
        shutil.chown(tmp_path / "ours", 65534)
        with pytest.raises(PrivacyError, match="belongs to user 65534"):
            private_folder(folder)


def test_sbatch_sees_no_job_that_it_is_called_from() -> None:
    around = {"SLURM_CONF": "/etc/x", "SLURM_ARRAY_TASK_ID": "7", "SLURM_RESTART_COUNT": "1", "HF_TOKEN": "hf_secret"}
    around |= {"PATH": "/bin", "NCCL_DEBUG": "INFO", "MY": "own"}
    assert clean_environment(["MY"], around) == {
        "SLURM_CONF": "/etc/x",
        "PATH": "/bin",
        "NCCL_DEBUG": "INFO",
        "MY": "own",
    }


def test_tokens_are_known_by_their_form_and_by_their_variables_name() -> None:
    redact = Redactor({"WANDB_API_KEY": "abcdefgh12345", "HOME_TOKEN": "short", "PASSWORD_FILE": "/etc/shadow"})
    assert redact("key abcdefgh12345 short /etc/shadow") == "key [WANDB_API_KEY] short /etc/shadow"
    assert redact("at hf_" + "a" * 30 + ".") == "at [secret]."


def test_numbers_of_another_cluster_are_not_taken_for_ours(bench: Bench) -> None:
    bench.put(bench.job("job", 300, seconds=0.1))
    (record,) = (bench.submissions.folder / "submissions").glob("0*.json")
    text = record.read_text()
    record.write_text(text.replace('"cluster": "ci"', '"cluster": "elsewhere"'))
    with pytest.raises(SlurmError, match="was submitted on cluster 'elsewhere', and this is 'ci'"):
        bench.put(bench.job("job", 300))
    record.write_text(text)
    cancel(bench.submissions, bench.client)


def test_the_first_step_of_another_clusters_jobs_is_not_ours(bench: Bench) -> None:
    """What a start leaves names the job; of another job, or another cluster's, with the same name it is no end."""
    bench.put(bench.job("job", 30, seconds=0.1))
    folder = bench.submissions.attempts("job")
    from slurm.attempts import end

    bench.reaches("job", 1)
    other = private_folder(folder / "0000")
    write_record(other / "begun.json", {"id": "1_0", "time": 0})
    end(other, 0, (30,), "done", "")
    assert bench.conditions()["job"].active
    client: Client = bench.client
    cancel(bench.submissions, client)
    assert bench.states() == {"job": "cancelled"}
