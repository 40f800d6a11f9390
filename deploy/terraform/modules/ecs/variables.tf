variable "name" {
  description = "Name of the cluster."
  type        = string
}

variable "vpc_id" {
  description = "The network."
  type        = string
}

variable "subnets" {
  description = "Private subnets of tasks."
  type        = list(string)
}

variable "image" {
  description = "Image of worker and flow runs."
  type        = string
}

variable "repository_arn" {
  description = "Repository of that image."
  type        = string
}

variable "key_arn" {
  description = "Key of secrets and bucket."
  type        = string
}

variable "log_group" {
  description = "Where tasks log."
  type        = object({ name = string, arn = string })
}

variable "storage_policy_arn" {
  description = "Rights of flow runs in the storage."
  type        = string
}

variable "worker_count" {
  description = "Prefect workers."
  type        = number
}

variable "environment" {
  description = "Variables of worker and flow runs; empty ones are left out."
  type        = map(string)
}

variable "secrets" {
  description = "Secrets that become variables of flow runs, by the variable; PREFECT_API_KEY is the worker's too."
  type        = map(string)
}
