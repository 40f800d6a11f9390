variable "name" {
  description = "Name of the environment."
  type        = string
}

variable "repository" {
  description = "owner/name of the repository on GitHub."
  type        = string
}

variable "environment" {
  description = "Environment of GitHub whose jobs may push."
  type        = string
}

variable "repository_arn" {
  description = "Repository of images."
  type        = string
}

variable "provider_arn" {
  description = "OIDC provider of GitHub; null: it is made here."
  type        = string
}
