variable "name" {
  description = "Name of the bucket."
  type        = string
}

variable "key_arn" {
  description = "Key that encrypts all objects."
  type        = string
}

variable "protected" {
  description = "Refuse to delete versions of objects, and to destroy the bucket while it holds any."
  type        = bool
}

variable "retention_days" {
  description = "How long a version stays after it was replaced or deleted."
  type        = number
}

variable "conditional_keys" {
  description = "Patterns of keys that may only be put with If-None-Match or If-Match."
  type        = list(string)
  default     = []
}
