variable "name" {
  description = "Name of the cluster."
  type        = string
}

variable "kubernetes_version" {
  description = "Version of Kubernetes."
  type        = string
}

variable "subnets" {
  description = "Private subnets, in two zones at least."
  type        = list(string)
}

variable "api_cidrs" {
  description = "Networks from which the API can be reached; none: only from within the network."
  type        = list(string)

  validation {
    condition     = !contains(var.api_cidrs, "0.0.0.0/0")
    error_message = "kubernetes_api_cidrs: name the networks that administer the cluster, not the whole internet."
  }
}

variable "node_types" {
  description = "Instance types of the nodes."
  type        = list(string)
}

variable "nodes" {
  description = "Fewest and most nodes."
  type        = object({ min = number, max = number })
}

variable "key_arn" {
  description = "Key of the cluster's secrets and log."
  type        = string
}

variable "retention_days" {
  description = "How long the cluster's log is kept."
  type        = number
}

variable "roles" {
  description = "Roles of pods by their names: a policy, and the service accounts that get it, as namespace:name."
  type        = map(object({ accounts = list(string), policy_arn = string }))

  validation {
    condition     = !contains(keys(var.roles), "secrets")
    error_message = "roles: the role named secrets is that of External Secrets."
  }
}

variable "secret_arns" {
  description = "Secrets that External Secrets may read."
  type        = list(string)
}
