# The targets and labels of the images. `./inv build` sets the variables. A plain `docker buildx
# bake` builds the same layers with the label "unknown" for variables that are not set.

variable "BACKEND" { default = "cpu" }
variable "LOCK" { default = "cpu" }
variable "VERSION" { default = "unknown" }
variable "REVISION" { default = "unknown" }
variable "SOURCE_DATE_EPOCH" { default = "0" }
variable "CREATED" { default = "1970-01-01T00:00:00Z" }

# The OS image and its origin. An empty OS_IMAGE is the Dockerfile's default.
variable "OS_IMAGE" { default = "" }
variable "OS_NAME" { default = "unknown" }
variable "OS_DIGEST" { default = "unknown" }
variable "OS_SOURCE" { default = "registry" }

# A folder with the packages that a build otherwise downloads (docs/bundle.md).
variable "PACKAGES" { default = "" }

# Inputs of a DCU's images (configs/backends/); empty for a CPU. PADDLENLP_SRC, WHEELS and HEADERS
# are build contexts: a folder, or a git URL with a commit. PADDLENLP_SOURCE is the label for
# PADDLENLP_SRC.
variable "DTK_IMAGE" { default = "" }
variable "GFX_ARCHS" { default = "" }
variable "PADDLENLP_SRC" { default = "" }
variable "PADDLENLP_SOURCE" { default = "" }
variable "WHEELS" { default = "" }
variable "HEADERS" { default = "" }

# Read from the locks.
variable "LOCK_HASH" { default = "unknown" }
variable "PADDLE_VERSION" { default = "unknown" }
variable "PADDLENLP_VERSION" { default = "unknown" }

# Secret files of build steps, which never become part of a layer; /dev/null is none.
variable "CA_BUNDLE" { default = "/dev/null" }
variable "NETWORK" { default = "/dev/null" }

group "default" {
  targets = ["train", "infer"]
}

group "all" {
  targets = ["base", "framework", "train", "infer"]
}

target "_common" {
  context    = "."
  dockerfile = "Dockerfile"
  args = {
    BACKEND           = BACKEND
    LOCK              = LOCK
    OS_IMAGE          = OS_IMAGE != "" ? OS_IMAGE : null
    DTK_IMAGE         = DTK_IMAGE != "" ? DTK_IMAGE : null
    GFX_ARCHS         = GFX_ARCHS != "" ? GFX_ARCHS : null
    SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH
  }
  contexts = merge(
    PACKAGES != "" ? { packages = PACKAGES } : {},
    PADDLENLP_SRC != "" ? { paddlenlp = PADDLENLP_SRC } : {},
    WHEELS != "" ? { wheels = WHEELS } : {},
    HEADERS != "" ? { headers = HEADERS } : {},
  )
  secret = [
    "id=ca_bundle,src=${CA_BUNDLE}",
    "id=network,src=${NETWORK}",
  ]
  labels = {
    "org.opencontainers.image.source"      = "https://github.com/paddle-stacks/paddle-stacks"
    "org.opencontainers.image.revision"    = REVISION
    "org.opencontainers.image.version"     = VERSION
    "org.opencontainers.image.created"     = CREATED
    "org.opencontainers.image.licenses"    = "Apache-2.0"
    "org.opencontainers.image.base.name"   = OS_NAME
    "org.opencontainers.image.base.digest" = OS_DIGEST
    "paddle-stacks.backend"                = BACKEND
    "paddle-stacks.os.source"              = OS_SOURCE
    "paddle-stacks.lock"                   = LOCK_HASH
    "paddle-stacks.paddle.version"         = PADDLE_VERSION
    "paddle-stacks.paddlenlp.version"      = PADDLENLP_VERSION
  }
}

# Labels of images with operators.
target "_operators" {
  labels = {
    "paddle-stacks.paddlenlp.source" = PADDLENLP_SOURCE != "" ? PADDLENLP_SOURCE : null
    "paddle-stacks.ops.archs"        = GFX_ARCHS != "" ? GFX_ARCHS : null
  }
}

target "base" {
  inherits = ["_common"]
  target   = "base"
  tags     = ["paddle-stacks/base:${BACKEND}", "paddle-stacks/base:${VERSION}-${BACKEND}"]
}

target "framework" {
  inherits = ["_common"]
  target   = "framework"
  tags     = ["paddle-stacks/framework:${BACKEND}", "paddle-stacks/framework:${VERSION}-${BACKEND}"]
}

# With the CPU's operators, and for a DCU also PaddleNLP's.
target "ops" {
  inherits = ["_common", "_operators"]
  target   = "ops"
  tags     = ["paddle-stacks/ops:${BACKEND}", "paddle-stacks/ops:${VERSION}-${BACKEND}"]
}

target "train" {
  inherits = ["_common", "_operators"]
  target   = "train"
  tags     = ["paddle-stacks/train:${BACKEND}", "paddle-stacks/train:${VERSION}-${BACKEND}"]
}

target "infer" {
  inherits = ["_common", "_operators"]
  target   = "infer"
  tags     = ["paddle-stacks/infer:${BACKEND}", "paddle-stacks/infer:${VERSION}-${BACKEND}"]
}

# Everything that a build downloads, as a folder; `./inv bundle.create` sets the output.
target "_bundle" {
  inherits = ["_common"]
  target   = "bundle"
}
