import os, subprocess, sys, pytest
from fixtures.command_line import HPO
from fixtures.studies import simulated_study


def run(server, folder, url, *words):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HPO_", "MLFLOW_"))}
    own = {"HPO_STORAGE": url, "HPO_HOME": str(folder / ".hpo")}
    done = subprocess.run(
        [HPO, *words], cwd=folder, env=inherited | own, capture_output=True, text=True, check=False
    )
    print("$", words, done.returncode, "\n", done.stdout, done.stderr)


def test_probe(server, tmp_path):
    server.provision()
    simulated_study(server.engine("HPO_STORAGE"), study="seen")
    for url in (
        server.env["HPO_READER_STORAGE"],
        server.env["MLFLOW_BACKEND_STORE_URI"],
        server.env["MLFLOW_BACKEND_STORE_URI"].rpartition("/")[0] + "/" + server.role["hpo"],
    ):
        for w in (
            ("stop", "--study", "seen"),
            ("delete", "--study", "seen", "--yes"),
            ("worker", "--study", "seen"),
            ("doctor",),
            ("status",),
        ):
            run(server, tmp_path, url, *w)
    print("INSERT lacking")
    server.as_admin(
        f"REVOKE INSERT ON hpo.lease FROM {server.role['hpo']}",
        f"REVOKE INSERT ON hpo.worker FROM {server.role['hpo']}",
        database=server.role["hpo"],
    )
    run(server, tmp_path, server.env["HPO_STORAGE"], "worker", "--study", "seen")
    run(server, tmp_path, server.env["HPO_STORAGE"], "doctor")
    server.as_admin(
        f"REVOKE SELECT ON public.studies FROM {server.role['hpo']}", database=server.role["hpo"]
    )
    run(server, tmp_path, server.env["HPO_STORAGE"], "doctor")
    # pg_dump with revoked lo functions
    import glob

    bins = "/usr/lib/postgresql/15/bin"
