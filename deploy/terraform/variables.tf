variable "name" {
  description = "First part of all names."
  type        = string
  default     = "wafer"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}$", var.name))
    error_message = "name: expected 2 to 20 of a-z, 0-9 and -, beginning with a letter."
  }
}

variable "environment" {
  description = "Which of the two this is; second part of all names."
  type        = string

  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "environment: expected staging or production."
  }
}

variable "region" {
  description = "Region of everything."
  type        = string
}

variable "storage_bucket" {
  description = "Bucket of all outputs; unset: <name>-<environment>-<account>."
  type        = string
  default     = null
}

variable "storage_prefix" {
  description = "Prefix in that bucket: WAFER_STORAGE is s3://<bucket>/<prefix>."
  type        = string
  default     = "data"

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9._-]*(/[a-z0-9._-]+)*$", var.storage_prefix))
    error_message = "storage_prefix: expected parts of a-z, 0-9, '.', '_' and '-', separated by single slashes."
  }
}

variable "protected" {
  description = "Refuse to destroy buckets with content, the database and the images, and to delete versions of objects."
  type        = bool
  default     = true
}

variable "pools" {
  description = "Where flow runs work: ecs, eks, or both. A pool that is not named costs nothing."
  type        = set(string)
  default     = ["ecs"]

  validation {
    condition     = length(setsubtract(var.pools, ["ecs", "eks"])) == 0
    error_message = "pools: expected ecs, eks, or both."
  }
}

variable "mlflow" {
  description = "Run an MLflow server on ECS with PostgreSQL of RDS; false where one exists."
  type        = bool
  default     = true
}

variable "image_tag" {
  description = "Tag of the image in the repository that is made here: the digest of what went into it."
  type        = string
  default     = "unset"
}

variable "network_cidr" {
  description = "Addresses of the network, a /16."
  type        = string
  default     = "10.20.0.0/16"
}

variable "zones" {
  description = "Letters of the availability zones in use; EKS and RDS need two."
  type        = list(string)
  default     = ["a", "b"]

  validation {
    condition     = length(distinct(var.zones)) == length(var.zones) && length(var.zones) >= 2 && length(var.zones) <= 4
    error_message = "zones: expected the letters of 2 to 4 different zones."
  }
}

variable "nat_per_zone" {
  description = "A NAT gateway in each zone in place of one for all: about 35 USD a month each."
  type        = bool
  default     = false
}

variable "retention_days" {
  description = "How long logs and old versions of objects are kept."
  type        = number
  default     = 365
}

variable "worker_count" {
  description = "Prefect workers on ECS; 0 until PREFECT_API_URL and the secret prefect-api-key have their values."
  type        = number
  default     = 0
}

variable "prefect_api_url" {
  description = "PREFECT_API_URL of workers and flow runs."
  type        = string
  default     = ""
}

variable "database_class" {
  description = "Instance class of MLflow's database."
  type        = string
  default     = "db.t4g.micro"
}

variable "database_multi_az" {
  description = "A standby of the database in a second zone: twice the price."
  type        = bool
  default     = true
}

variable "database_password_version" {
  description = "One more than before gives MLflow's database a new password."
  type        = number
  default     = 1
}

variable "kubernetes_version" {
  description = "Version of the EKS cluster."
  type        = string
  default     = "1.33"
}

variable "kubernetes_api_cidrs" {
  description = "Networks from which the cluster's API can be reached; none: only from within the network."
  type        = list(string)
  default     = []
}

variable "node_types" {
  description = "Instance types of the EKS nodes."
  type        = list(string)
  default     = ["m7i-flex.large"]
}

variable "nodes" {
  description = "Fewest and most EKS nodes."
  type        = object({ min = number, max = number })
  default     = { min = 1, max = 4 }
}

variable "service_accounts" {
  description = "Service accounts of Kubernetes, as namespace:name, whose pods may use the storage or MLflow's artefacts."
  type        = object({ storage = list(string), artifacts = list(string) })
  default     = { storage = ["wafer:wafer-service", "wafer:wafer-flow"], artifacts = ["wafer:mlflow"] }
}

variable "budget_usd" {
  description = "Monthly budget; 0: no alarm."
  type        = number
  default     = 0
}

variable "budget_emails" {
  description = "Who is told at 80 % and 100 % of the budget, and when 100 % are forecast."
  type        = list(string)
  default     = []
}

variable "github_repository" {
  description = "owner/name of the repository whose workflows may push images; empty: none."
  type        = string
  default     = ""
}

variable "github_provider_arn" {
  description = "OIDC provider of GitHub in this account, of which there can be one; unset: it is made here."
  type        = string
  default     = null
}
