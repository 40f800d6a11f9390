variable "name" {
  description = "Name of the environment."
  type        = string
}

variable "vpc_id" {
  description = "The network."
  type        = string
}

variable "subnets" {
  description = "Private subnets, in two zones at least."
  type        = list(string)
}

variable "clients" {
  description = "Networks that may ask the server, by a word that says which."
  type        = map(string)
}

variable "cluster_arn" {
  description = "Cluster of ECS on which it runs."
  type        = string
}

variable "image" {
  description = "Image with mlflow, boto3 and pg8000."
  type        = string
}

variable "repository_arn" {
  description = "Repository of that image."
  type        = string
}

variable "key_arn" {
  description = "Key of database, password and artefacts."
  type        = string
}

variable "log_group" {
  description = "Where it logs."
  type        = object({ name = string, arn = string })
}

variable "artifacts" {
  description = "s3://bucket/prefix of artefacts."
  type        = string
}

variable "artifact_policy_arn" {
  description = "Rights in that bucket."
  type        = string
}

variable "database_class" {
  description = "Instance class of the database."
  type        = string
}

variable "multi_az" {
  description = "A standby in a second zone."
  type        = bool
  default     = true
}

variable "password_version" {
  description = "One more than before makes a new password."
  type        = number
}

variable "protected" {
  description = "Refuse to destroy the database; keep a snapshot and fourteen days of backups."
  type        = bool
  default     = true
}
