variable "name" {
  description = "Name of the repository."
  type        = string
}

variable "key_arn" {
  description = "Key that encrypts the images."
  type        = string
}

variable "protected" {
  description = "Refuse to destroy the repository while it holds images."
  type        = bool
}

variable "kept" {
  description = "How many images are kept."
  type        = number
  default     = 50
}
