"""What must hold of Compose's and Kubernetes' files, beside that they can be read."""

import pathlib

import yaml

HERE = pathlib.Path(__file__).resolve().parent


def documents(path):
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


def compose():
    """No container may more than it must, and only the server is reached from elsewhere."""
    whole = documents(HERE / "compose.yaml")[0]
    for name, service in whole["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["restart"] == "unless-stopped", name
        assert {"mem_limit", "pids_limit", "networks", "image"} <= service.keys(), name
        assert not {"privileged", "cap_add", "network_mode", "pid", "user"} & service.keys(), name
        for port in service.get("ports", []):
            assert name == "server" or port.startswith("127.0.0.1:"), f"{name}: {port}"
        for secret in service.get("secrets", []):
            assert secret in whole["secrets"], f"{name}: {secret}"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (HERE / source).is_file(), f"{name}: {source}"
            else:
                assert source in whole["volumes"], f"{name}: {source}"
    assert whole["networks"]["inside"]["internal"] is True
    for name in ("redis", "worker"):
        assert whole["services"][name]["networks"] == ["inside"], name


def kubernetes():
    """The same of pods; and whatever is named is there."""
    place = HERE / "kubernetes"
    kustomization = documents(place / "kustomization.yaml")[0]
    files = {path.name for path in place.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(kustomization["resources"]), files
    found = [item for name in sorted(files) for item in documents(place / name)]
    names = {(item["kind"], item["metadata"]["name"]) for item in found}
    labels = []
    for item in found:
        if item["kind"] not in ("StatefulSet", "Deployment"):
            continue
        name, template = item["metadata"]["name"], item["spec"]["template"]
        pod = template["spec"]
        labels.append(template["metadata"]["labels"]["app"])
        assert item["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"], name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
            assert "livenessProbe" in container, name
            assert container["image"] in [image["name"] for image in kustomization["images"]], name
    scaled = next(item for item in found if item["kind"] == "ScaledObject")
    assert ("Deployment", scaled["spec"]["scaleTargetRef"]["name"]) in names
    secrets = {secret["name"] for secret in kustomization["secretGenerator"]}
    assert kustomization["generatorOptions"]["disableNameSuffixHash"] is True
    for item in found:
        if item["kind"] == "TriggerAuthentication":
            assert {ref["name"] for ref in item["spec"]["secretTargetRef"]} <= secrets, item["metadata"]
    triggers = {trigger["type"]: trigger for trigger in scaled["spec"]["triggers"]}
    assert set(triggers) == {"metrics-api", "redis"}
    for trigger in triggers.values():
        assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in names
    # What KEDA divides by is what a node has.
    worker = next(
        item
        for item in found
        if item["metadata"]["name"] == "frameloom-worker" and item["kind"] == "Deployment"
    )
    arguments = worker["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--slots={triggers['metrics-api']['metadata']['targetValue']}" in arguments
    for item in found:
        if item["kind"] == "NetworkPolicy" and item["spec"]["podSelector"]:
            assert item["spec"]["podSelector"]["matchLabels"]["app"] in labels, item["metadata"]


compose()
kubernetes()
