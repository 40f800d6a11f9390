# A root of its own, with a state of its own: whoever has another MongoDB needs neither this provider nor its keys.
terraform {
  required_version = ">= 1.11"

  required_providers {
    mongodbatlas = {
      source  = "mongodb/mongodbatlas"
      version = "~> 1.40"
    }
  }

  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

# Keys come from MONGODB_ATLAS_PUBLIC_API_KEY and MONGODB_ATLAS_PRIVATE_API_KEY.
provider "mongodbatlas" {}
