variable "name" {
  description = "First part of the secrets' names."
  type        = string
}

variable "key_arn" {
  description = "Key that encrypts them."
  type        = string
}

variable "protected" {
  description = "Keep a deleted secret for 30 days."
  type        = bool
}

variable "secrets" {
  description = "What each secret is, by its name."
  type        = map(string)
}
