output "address" {
  description = "MONGODB_URL without user and password; with them it is the value of the secret mongodb-url."
  value       = "${mongodbatlas_advanced_cluster.this.connection_strings[0].standard_srv}/?retryWrites=true&w=majority"
}
