"""`helm test`: the API server knows InferenceJobs, and the operator's account may list them."""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request

FOLDER = os.environ.get(
    "PIPEMAX_SERVICE_ACCOUNT_FOLDER", "/var/run/secrets/kubernetes.io/serviceaccount"
)
HOST = os.environ["KUBERNETES_SERVICE_HOST"]
SERVER = f"https://[{HOST}]" if ":" in HOST else f"https://{HOST}"
API = "/apis/pipemax.dev/v1alpha1"


def get(path: str) -> dict:
    with open(f"{FOLDER}/token", encoding="utf-8") as token:
        headers = {"Authorization": f"Bearer {token.read().strip()}"}
    url = f"{SERVER}:{os.environ['KUBERNETES_SERVICE_PORT']}{path}"
    context = ssl.create_default_context(cafile=f"{FOLDER}/ca.crt")
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = json.loads(error.read() or b"{}").get("message", "")
        sys.exit(f"GET {path}: {error.code}: {said}")
    except urllib.error.URLError as error:
        sys.exit(f"GET {url}: {error.reason}: does a pod reach the API server there?")


kinds = [resource["kind"] for resource in get(API)["resources"]]
if "InferenceJob" not in kinds:
    sys.exit(f"{API}: no InferenceJob among {kinds}: is the CRD installed?")
namespaces = os.environ.get("PIPEMAX_NAMESPACES", "").split()
paths = [f"{API}/namespaces/{name}/inferencejobs" for name in namespaces]
for path in paths or [f"{API}/inferencejobs"]:
    print(f"{path}: {len(get(path)['items'])} InferenceJobs")
